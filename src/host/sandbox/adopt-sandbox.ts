import { existsSync } from "node:fs";
import { dirname } from "node:path";
import type { WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import { UndoStack, withUndo } from "../../shared/base/undo.ts";
import { made, type Step, type Steps } from "../../shared/base/steps.ts";
import type { GuestProcess as ListedProcess, HelloResponse } from "../../shared/protocol/gen/casemate_pb.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import { ContainerLogWriter, type LogEnd } from "../store/container-log.ts";
import { creatingSandbox, savedContainers, savedExecs, type SandboxRecord, type SavedContainer, type SavedEnd, type SavedExec, type SavedIo } from "../store/saved-records.ts";
import { guestProtocolVersion, type LateGuard, type SandboxBuild, type SandboxSurroundings } from "./create-sandbox.ts";
import { scsiAddress } from "../hypervisor/virtual-machine.ts";
import type { AdoptedVm, SandboxShares } from "./drivers.ts";
import { GuestProcess, type ProcessEnd } from "./process.ts";
import { ProcessIo, type OutputFd, type OutputOffsets, type StdioResume } from "./process-io.ts";
import { bootMemoryBytes, type SandboxClone, type SandboxConfig } from "./sandbox-config.ts";
import { raceDeath } from "./vm-death.ts";

/** QEMU stops its vCPUs within milliseconds. */
const pauseTimeoutMs = 5_000;

/** A container's log, and where it ends. */
interface OpenLog {
  readonly writer: ContainerLogWriter;
  readonly end: LogEnd;
}

/** What the steps of taking a sandbox over find, each for those after it. */
export class SandboxAdoption {
  readonly config: SandboxConfig;
  readonly surroundings: SandboxSurroundings;
  readonly record: SandboxRecord;
  readonly undo: UndoStack;
  readonly containers: readonly SavedContainer[];
  readonly execs: readonly SavedExec[];
  readonly logs = new Map<string, OpenLog>();
  shares: SandboxShares | undefined;
  /** What the agent has, by `CONTAINER/EXEC`. */
  listed = new Map<string, ListedProcess>();
  readonly #guard: LateGuard;
  #vm: AdoptedVm | undefined;
  #connection: AgentClient | undefined;
  #hello: HelloResponse | undefined;

  constructor(config: SandboxConfig, surroundings: SandboxSurroundings, record: SandboxRecord, undo: UndoStack, guard: LateGuard) {
    this.config = config;
    this.surroundings = surroundings;
    this.record = record;
    this.undo = undo;
    this.containers = savedContainers(surroundings.ledger);
    this.execs = savedExecs(surroundings.ledger);
    this.#guard = guard;
  }

  get vm(): AdoptedVm { return made(this.#vm); }
  set vm(vm: AdoptedVm) {
    this.#vm = vm;
    this.#guard.set(raceDeath(vm.vm));
  }

  get connection(): AgentClient { return made(this.#connection); }
  set connection(connection: AgentClient) { this.#connection = connection; }
  get hello(): HelloResponse { return made(this.#hello); }
  set hello(hello: HelloResponse) { this.#hello = hello; }

  /** Above every number that is in use. */
  get nextStreamId(): number {
    return 1 + Math.max(0, ...[...this.containers, ...this.execs, ...this.listed.values()].map(({ streamId }) => streamId));
  }

  /** Gives back, when the sandbox is stopped, what its owners have taken. */
  teardown(): UndoStack {
    const { surroundings: { drivers, ledger }, connection } = this;
    const teardown = new UndoStack();
    teardown.add("what the sandbox holds", async () => throwAll(await drivers.releaseAll(ledger)));
    teardown.add("agent connection", () => connection.close());
    return teardown;
  }

  /** A process as the ledger, the log and the agent know it together. */
  process(saved: { readonly containerId: string; readonly execId: string; readonly streamId: number; readonly io: SavedIo; readonly end?: SavedEnd }): GuestProcess {
    const { containerId, execId, io: { terminal, stdin, holdOutput } } = saved;
    const listed = this.listed.get(processKey(saved));
    const log = execId === "" ? this.logs.get(containerId) : undefined;
    if (saved.end !== undefined) void log?.writer.close(); // only read from now on
    const io = new ProcessIo(this.connection.streams(saved.streamId), { terminal, stdin, holdOutput, log: log?.writer }, resumeStdio(saved.io, listed, log?.end.offsets, saved.end !== undefined));
    return GuestProcess.restore({ containerId, execId, terminal }, io, { started: listed !== undefined && listed.status !== "created", guestPid: listed?.pid ?? 0, end: saved.end && loadEnd(saved.end) });
  }
}

/** How a sandbox is taken over from an owner that has died. Nothing in it is changed before the last step is done. */
export const adoptSandboxSteps: readonly Step<SandboxAdoption>[] = [
  { name: "find the VM", run: findVm },
  { name: "find virtiofsd", when: ({ config }) => config.shares, run: (adoption) => { adoption.shares = adoption.surroundings.drivers.adoptShares(adoption.config, adoption.surroundings.ledger); } },
  // A guest that stands still cannot be asked what it has.
  { name: "let a paused VM answer", when: ({ vm }) => vm.paused, run: letAnswer },
  { name: "connect to the agent", run: connect },
  { name: "greet the agent", run: greet },
  { name: "list processes", run: listProcesses },
  { name: "pause the VM again", when: ({ vm }) => vm.paused, run: ({ vm: { vm } }, wait) => vm.pause(wait) },
  { name: "open logs", run: openLogs },
];

/** Runs the steps; what they opened is closed when one fails, and the sandbox stays as it is. */
export async function adoptSandbox(config: SandboxConfig, surroundings: SandboxSurroundings, record: SandboxRecord, steps: Steps, guard: LateGuard): Promise<SandboxAdoption> {
  return withUndo(async (undo) => {
    const adoption = new SandboxAdoption(config, surroundings, record, undo, guard);
    await steps.runAll(adoptSandboxSteps, adoption);
    undo.move();
    return adoption;
  });
}

/** What a guest that was saved while it lived brings along, with the records of this sandbox already in the ledger. */
export async function listClone({ config, surroundings, undo, steps, vm, connection, hello }: SandboxBuild, { pluggedBytes }: Pick<SandboxClone, "pluggedBytes">, guard: LateGuard): Promise<SandboxAdoption> {
  const adoption = new SandboxAdoption(config, surroundings, creatingSandbox, undo, guard);
  const { disks } = await vm.describePlugged(steps.wait);
  adoption.vm = { vm, paused: false, size: { memoryBytes: bootMemoryBytes + pluggedBytes, vcpuCount: config.vcpuCount }, disks: new Map(disks.map(({ diskId, lun }) => [diskId, { scsiAddress: scsiAddress(lun) }])) };
  adoption.connection = connection;
  adoption.hello = hello;
  await steps.runAll(adoptSandboxSteps.filter(({ name }) => name === "list processes" || name === "open logs"), adoption);
  return adoption;
}

/** Names of a process in one text. */
export function processKey({ containerId, execId }: { readonly containerId: string; readonly execId: string }): string {
  return `${containerId}/${execId}`;
}

/** An end as the ledger keeps it. */
export function saveEnd(end: ProcessEnd): SavedEnd {
  return { ...end, exitedAtUnixNanos: String(end.exitedAtUnixNanos) };
}

function loadEnd(end: SavedEnd): ProcessEnd {
  return { ...end, exitedAtUnixNanos: BigInt(end.exitedAtUnixNanos) };
}

async function findVm(adoption: SandboxAdoption, wait: WaitOptions): Promise<void> {
  const { config, record, surroundings: { drivers, ledger } } = adoption;
  const found = await drivers.adoptVm(config, record.startedBy, ledger, wait);
  adoption.vm = { ...found, paused: found.paused || record.paused === true };
}

async function letAnswer({ vm: { vm }, undo }: SandboxAdoption, wait: WaitOptions): Promise<void> {
  undo.add("pause of the VM", () => vm.pause({ timeoutMs: pauseTimeoutMs }));
  await vm.resume(wait);
}

async function connect(adoption: SandboxAdoption, wait: WaitOptions): Promise<void> {
  const connection = await adoption.surroundings.drivers.connectAgent(adoption.config, { ...wait, busy: true });
  adoption.undo.add("agent connection", () => connection.close());
  adoption.connection = connection;
}

async function greet(adoption: SandboxAdoption, wait: WaitOptions): Promise<void> {
  const { sandboxId } = adoption.config;
  const hello = await adoption.connection.guest.hello({ protocolVersion: guestProtocolVersion }, wait);
  if (hello.sandboxId !== sandboxId) throw new RuntimeError("data_loss", `the guest is of sandbox "${hello.sandboxId}", not "${sandboxId}"`);
  adoption.hello = hello;
}

async function listProcesses(adoption: SandboxAdoption, wait: WaitOptions): Promise<void> {
  const { processes } = await adoption.connection.guest.listProcesses({}, wait);
  adoption.listed = new Map(processes.map((process) => [processKey(process), process]));
}

async function openLogs({ containers, logs, undo }: SandboxAdoption): Promise<void> {
  for (const { name, io: { logPath } } of containers) {
    if (logPath === "" || !existsSync(dirname(logPath))) continue; // a container that is being removed
    const log = await ContainerLogWriter.resume(logPath);
    undo.add(`log of container "${name}"`, () => log.writer.close());
    logs.set(name, log);
  }
}

function resumeStdio({ stdoutFrom = 0, stderrFrom = 0 }: SavedIo, listed: ListedProcess | undefined, logged: ReadonlyMap<number, number> | undefined, over: boolean): StdioResume {
  return {
    acknowledged: offsets(Math.max(stdoutFrom, Number(listed?.stdoutAcknowledged ?? 0n)), Math.max(stderrFrom, Number(listed?.stderrAcknowledged ?? 0n))),
    logged: offsets(logged?.get(1) ?? 0, logged?.get(2) ?? 0),
    stdinOffset: Number(listed?.stdinReceived ?? 0n),
    over,
  };
}

function offsets(stdout: number, stderr: number): OutputOffsets {
  return new Map<OutputFd, number>([[1, stdout], [2, stderr]]);
}

function throwAll(failures: readonly unknown[]): void {
  if (failures.length > 0) throw new AggregateError(failures, failures.map(describeError).join("; "));
}
