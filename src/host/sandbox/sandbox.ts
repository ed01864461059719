import { orAbandon, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import { OperationQueue } from "../../shared/base/operation-queue.ts";
import { Steps, type StepGuard, type StepHook, type StepObserver, type StepTiming } from "../../shared/base/steps.ts";
import { UndoStack, withUndo } from "../../shared/base/undo.ts";
import type { OciProcess, OciResources } from "../../shared/oci/runtime-spec.ts";
import type { StatsContainerResponse } from "../../shared/protocol/gen/agent/agent_pb.ts";
import type { Event, HelloResponse } from "../../shared/protocol/gen/casemate_pb.ts";
import { DiskPool } from "../device/disk-pool.ts";
import { scsiAddress, type CaptureResult, type CaptureTarget, type PluggedDevices, type VirtualMachine, type VmExit } from "../hypervisor/virtual-machine.ts";
import type { PublishedPort } from "../store/container-store.ts";
import type { Ledger, ResourceRecord } from "../store/ledger.ts";
import { execRecordName, savedContainers, savedExecs, savedSandbox, type SandboxRecord, type SavedContainer, type SavedExec, type SavedKeeping } from "../store/saved-records.ts";
import { adoptSandbox, listClone, processKey, saveEnd, type SandboxAdoption } from "./adopt-sandbox.ts";
import { Container, shareNames, type ContainerRequest } from "./container.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import { EventOrder } from "../agent-client/event-order.ts";
import { LateGuard, SandboxBuild, equipGuestSteps, takeHostSteps } from "./create-sandbox.ts";
import type { SandboxDrivers, SandboxShares } from "./drivers.ts";
import type { ContainerState } from "./container-state.ts";

import { bundleHostMounts, bundleSharesPid, refuseHostHooks } from "./guest-spec.ts";
import { GuestProcess, type ProcessEnd } from "./process.ts";
import { ProcessIo, saveIo, type ProcessIoOptions } from "./process-io.ts";
import { ProcessStart, execSteps, startContainerSteps } from "./process-start.ts";
import { bootMemoryBytes, type PreparedClone, type SandboxConfig } from "./sandbox-config.ts";
import { SandboxRoom, growSteps } from "./sandbox-room.ts";
import type { SandboxSize } from "./sandbox-size.ts";
import { serveSharesSteps, withdrawShares, withdrawSharesSteps, type ShareBuild } from "./share-steps.ts";
import { ContainerUpdate, updateSteps } from "./update-container.ts";
import { rehearseMeeting, startGuest } from "./start-guest.ts";
import { endReasons, raceDeath, sharesLost, vmDied } from "./vm-death.ts";
import { nextSandboxState, requireSandboxRunning, type SandboxState } from "./sandbox-state.ts";

/** Longest polite part of a stop; afterwards the VM is ended by force. */
const powerOffTimeoutMs = 5_000;
/** The guest may still have to take out what was plugged before it was saved, and tells a new disk from an old one by its id. */
const firstDiskOfClones = 100;
/** Longest wait for the VM's end by force: the VMM's own limit is half of that. */
const forceTimeoutMs = 10_000;
/** Longest wait for a guest to kill, or to remove, one container: crun takes some 2 s under emulation. */
const containerStopTimeoutMs = 10_000;
/** How long the end of an exec that nobody deletes is kept. */
const execLingerMs = 10_000;
/** A guest lets go of its shared folder in a tenth of a second. */
const withdrawTimeoutMs = 10_000;
/** Plugging takes a tenth of a second; a guest that is short of memory may be slow to answer. */
const growTimeoutMs = 15_000;
const SIGKILL = 9;
/** It becomes part of paths on the host and in the guest. */
const containerIdPattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;
/** A guest's clock is set every minute, and drifts by less than a second meanwhile; an event may have waited for an owner. */
const maxClockErrorNanos = 24n * 3_600n * 1_000_000_000n;
/** The status of a process that was ended by the loss of its VM: 128 + SIGKILL, as docker reports a killed container. */
const lostExitStatus = 137;

/** Something that happened in a sandbox. */
export interface SandboxEvent {
  readonly action: "health_status" | "create" | "start" | "die" | "oom" | "pause" | "unpause" | "exec_create" | "exec_start" | "exec_die" | "destroy";
  readonly containerId: string;
  readonly execId: string;
  readonly attributes: Readonly<Record<string, string>>;
}

/** What a sandbox needs from around it. */
export interface SandboxContext {
  readonly drivers: SandboxDrivers;
  readonly ledger: Ledger;
  readonly log: Logger;
  readonly hook?: StepHook;
  /** Is told of every step: for timings and traces. */
  readonly observer?: StepObserver;
  /** A file to use as the guest's memory, shared with us; for a VM that is to be saved. */
  readonly memoryFd?: number;
  readonly onEvent: (event: SandboxEvent) => void;
  /** Puts the end of a container on disk, before anybody is told. */
  readonly recordEnd: (container: Container, end: ProcessEnd) => void;
}

/** What a further process is made of. */
export interface ExecRequest {
  /** Empty: the guest itself. */
  readonly containerId: string;
  readonly execId: string;
  readonly process: OciProcess;
  readonly user: string;
  readonly io: ProcessIoOptions;
  readonly terminalSize: { readonly rows: number; readonly columns: number } | undefined;
  /** Forget the process when it has ended; otherwise {@link Sandbox.deleteExec} does. */
  readonly autoRemove: boolean;
  /** Give the process a cgroup of its own, so that `kill` can reach all it starts. */
  readonly ownCgroup?: boolean;
}

interface Parts {
  readonly vm: VirtualMachine;
  readonly connection: AgentClient;
  readonly hello: HelloResponse;
  readonly clockSet?: Promise<void>;
  readonly network: Pick<SandboxRecord, "addresses" | "ports" | "warnings">;
  readonly shares: SandboxShares | undefined;
  readonly teardown: UndoStack;
  readonly timings: readonly StepTiming[];
}

/** A sandbox as it was saved. */
export interface CapturedSandbox extends CaptureResult {
  readonly plugged: PluggedDevices;
  readonly containers: readonly SavedContainer[];
  readonly execs: readonly SavedExec[];
  /** Disks that are only read. */
  readonly images: readonly { readonly diskId: string; readonly path: string }[];
  readonly statuses: ReadonlyMap<string, ContainerState>;
  readonly size: SandboxSize;
}

/** One VM and the containers in it. */
export class Sandbox {
  readonly config: SandboxConfig;
  readonly vm: VirtualMachine;
  readonly guestKernel: string;
  readonly timings: readonly StepTiming[];
  readonly warnings: readonly string[];
  readonly addresses: readonly string[];
  readonly ports: readonly PublishedPort[];
  readonly containers = new Map<string, Container>();
  /** Processes in the guest itself. */
  readonly vmProcesses = new Map<string, GuestProcess>();
  /** Resolves when the VM has ended and every process has got its end. */
  readonly ended: Promise<VmExit>;
  readonly #context: SandboxContext;
  readonly #connection: AgentClient;
  readonly #disks: DiskPool;
  readonly #room: SandboxRoom;
  readonly #shares: SandboxShares | undefined;
  /** No process of the user's runs before that; of a sandbox that was taken over it was long ago. */
  readonly #clockSet: Promise<void> | undefined;
  readonly #teardown: UndoStack;
  readonly #queue = new OperationQueue();
  /** A step of any operation ends with the VM. */
  readonly #guard: StepGuard;
  /** Exec ids whose process is registered and not started. */
  readonly #registered = new Map<GuestProcess, { readonly request: ExecRequest; readonly streamId: number }>();
  readonly #handled = new Set<bigint>();
  #acknowledged: bigint;
  /** The container that waits in the guest since before it was saved. */
  readonly #prepared: PreparedClone | undefined;
  #nextStreamId: number;
  #stopping: Promise<void> | undefined;
  #state: SandboxState = "running";
  /** Containers that the guest has removed while their resources here are still being given back. */
  readonly #leftGuest = new Set<string>();
  #saved = false;
  /** Why the VM's processes ended with it. */
  #endReason: string | undefined;
  /** One growth of the memory at a time, however often the guest asks. */
  #growing: Promise<void> | undefined;

  private constructor(config: SandboxConfig, context: SandboxContext, parts: Parts) {
    this.config = config;
    this.vm = parts.vm;
    this.guestKernel = parts.hello.kernelRelease;
    this.timings = parts.timings;
    this.warnings = parts.network.warnings;
    this.addresses = parts.network.addresses;
    this.ports = parts.network.ports;
    this.#context = context;
    this.#connection = parts.connection;
    this.#shares = parts.shares;
    this.#disks = new DiskPool(parts.vm, parts.vm.startedBy === "template" ? firstDiskOfClones : 0);
    this.#room = new SandboxRoom(parts.vm, parts.connection.agent, { memoryBytes: Math.max(config.memoryBytes, bootMemoryBytes), vcpuCount: config.vcpuCount }, {
      ...(config.maxMemoryBytes !== undefined && { memoryBytes: config.maxMemoryBytes }),
      ...(config.maxVcpuCount !== undefined && { vcpuCount: config.maxVcpuCount }),
    });
    this.#teardown = parts.teardown;
    this.#guard = raceDeath(parts.vm, parts.shares);
    this.#prepared = parts.vm.startedBy === "template" ? config.prepared : undefined;
    for (const { diskId, path, lun } of this.#prepared?.disks ?? []) this.#disks.adopt(path, diskId, { scsiAddress: scsiAddress(lun) }, 0);
    this.#nextStreamId = (this.#prepared?.streamId ?? 0) + 1;
    this.#clockSet = parts.clockSet;
    this.#acknowledged = parts.hello.acknowledgedEventSequence;
    this.ended = this.#watchVm();
    parts.vm.onMemoryResized(() => void this.#shareMemory()); // handles its failures
    if (parts.shares !== undefined) void sharesLost(parts.vm, parts.shares).then(() => this.#endWithoutShares()); // handles its failures
  }

  /** Starts the VM with everything it needs; when a step fails, what the others took is given back. */
  static async create(config: SandboxConfig, context: SandboxContext, options: WaitOptions): Promise<Sandbox> {
    const startedMs = performance.now();
    const guard = new LateGuard();
    const steps = new Steps(`create sandbox "${config.sandboxId}"`, { ...options, hook: context.hook, guard: guard.run, log: context.log, observer: context.observer });
    return withUndo(async (undo) => {
      const build = new SandboxBuild(config, context, undo, steps, guard);
      await steps.runAll(takeHostSteps, build);
      await startGuest(build, context.log);
      if (config.pristine !== true) await steps.runAll(equipGuestSteps, build);
      const clone = config.clone === undefined ? undefined : await listClone(build, config.clone, guard);
      const { vm, connection, hello, clockSet, network, shares } = build;
      const seen = { addresses: network?.guest.addresses ?? [], ports: network?.ports ?? [], warnings: network?.warnings ?? [] };
      const sandbox = new Sandbox(config, context, { vm, connection, hello, clockSet, network: seen, shares, teardown: undo.move(), timings: steps.timings });
      const record: SandboxRecord = { kind: "sandbox", name: "sandbox", phase: "running", ...seen, startedBy: vm.startedBy, startMs: Math.round(performance.now() - startedMs) };
      context.ledger.note(record);
      if (clone !== undefined) sandbox.#restore(clone);
      void sandbox.#followEvents();
      return sandbox;
    });
  }

  /**
   * Takes over a sandbox whose owner has died: its VM, its containers and everything that runs in them.
   * When that fails, nothing has changed. @throws RuntimeError `unavailable` (reason `vmm_died`) when the VM is gone.
   */
  static async adopt(config: SandboxConfig, context: SandboxContext, record: SandboxRecord, options: WaitOptions): Promise<Sandbox> {
    const guard = new LateGuard();
    const steps = new Steps(`take over sandbox "${config.sandboxId}"`, { ...options, hook: context.hook, guard: guard.run, log: context.log, observer: context.observer });
    const adoption = await adoptSandbox(config, context, record, steps, guard);
    const { vm: { vm, paused }, connection, hello, shares } = adoption;
    const sandbox = new Sandbox(config, context, { vm, connection, hello, network: record, shares, teardown: adoption.teardown(), timings: steps.timings });
    if (paused) sandbox.#moveTo("paused");
    sandbox.#restore(adoption);
    void sandbox.#followEvents();
    // The guest may have given memory back while there was no owner that QEMU could tell; one that stands still is asked when it goes on.
    if (!paused) void sandbox.#shareMemory(); // handles its failures
    return sandbox;
  }

  /** @throws RuntimeError `not_found` (reason `container_not_found`). */
  container(containerId: string): Container {
    const container = this.containers.get(containerId);
    if (container === undefined) throw new RuntimeError("not_found", `container "${containerId}" is not in sandbox "${this.config.sandboxId}"`, { reason: "container_not_found" });
    return container;
  }

  /** The process of a container, or of the guest itself when the container id is empty. */
  process(containerId: string, execId: string): GuestProcess {
    if (containerId !== "") return this.container(containerId).process(execId);
    const process = this.vmProcesses.get(execId);
    if (process === undefined) throw new RuntimeError("not_found", `process "${execId}" does not exist in the guest`, { reason: "process_not_found" });
    return process;
  }

  get state(): SandboxState { return this.#state; }

  /** The id under which the disk of that file is, or would be, plugged. */
  diskId(path: string): string {
    return this.#disks.plan(path);
  }

  /** What the VM began as. */
  get startedBy(): "cold" | "template" | "prepared" {
    return this.#prepared === undefined ? this.vm.startedBy : "prepared";
  }

  async createContainer(request: ContainerRequest, options: WaitOptions): Promise<Container> {
    return this.#queue.run(async () => {
      const { containerId } = request;
      if (!containerIdPattern.test(containerId)) throw new RuntimeError("invalid_argument", `container id "${containerId.slice(0, 140)}": only letters, digits, "_", "." and "-", at most 128, beginning with a letter or digit`, { reason: "bad_id" });
      refuseHostHooks(request.spec);
      this.#requireRunning(`create container "${containerId}"`);
      if (this.containers.has(containerId)) throw new RuntimeError("already_exists", `container "${containerId}" exists already`, { reason: "container_exists" });
      const context = { connection: this.#connection, ledger: this.#context.ledger, room: this.#room, disks: this.#disks, shares: this.#shares, nextStreamId: () => this.#nextStreamId++, sharedPidNamespace: () => this.#sharedPidNamespace(), removeFromGuest: (id: string) => this.#removeFromGuest(id) };
      const steps = this.#steps(`create container "${containerId}"`, options);
      if (shareNames(request).length > 0 && this.#shares?.serving === false) await this.#serveShares(this.#shares, steps);
      const container = await Container.create(request, context, steps, this.#prepared?.containerId === containerId ? this.#prepared : undefined);
      this.containers.set(containerId, container);
      this.#emit("create", containerId);
      return container;
    });
  }

  async startContainer(containerId: string, options: WaitOptions): Promise<Container> {
    await this.#clockSet;
    this.#requireRunning(`start container "${containerId}"`);
    const container = this.container(containerId);
    container.require("start");
    const start = new ProcessStart(this.#connection, container.init, () => this.#connection.agent.startContainer({ containerId }, options)); // a step: startContainerSteps
    await start.run(startContainerSteps, this.#steps(`start container "${containerId}"`, options));
    // The exit may have been faster than this answer.
    if (container.state === "created") container.moveTo("running");
    container.init.running();
    this.#emit("start", containerId);
    return container;
  }

  /** Registers a further process; {@link startExec} runs it. Empty containerId: in the guest itself. */
  registerExec(request: ExecRequest): GuestProcess {
    const { containerId, execId } = request;
    this.#requireRunning(`exec "${execId}"`);
    const processes = containerId === "" ? this.vmProcesses : this.container(containerId).execs;
    if (containerId !== "") this.container(containerId).require("exec");
    if (processes.has(execId)) throw new RuntimeError("already_exists", `exec "${execId}" exists already`, { reason: "exec_exists" });
    const streamId = this.#nextStreamId++;
    this.#context.ledger.note(saveExec(request, streamId), { durable: true });
    const io = new ProcessIo(this.#connection.streams(streamId), request.io);
    const process = new GuestProcess({ containerId, execId, terminal: request.io.terminal }, io);
    this.#addExec(process, request.autoRemove);
    this.#registered.set(process, { request, streamId });
    this.#emit("exec_create", containerId, execId);
    return process;
  }

  /** True between {@link registerExec} and {@link startExec}. */
  awaitsStart(containerId: string, execId: string): boolean {
    const process = (containerId === "" ? this.vmProcesses : this.container(containerId).execs).get(execId);
    return process !== undefined && this.#registered.has(process);
  }

  async startExec(containerId: string, execId: string, options: WaitOptions): Promise<GuestProcess> {
    this.#requireRunning(`start exec "${execId}"`);
    const process = this.process(containerId, execId);
    const registered = this.#registered.get(process);
    if (registered === undefined) throw new RuntimeError("failed_precondition", `exec "${execId}" is started already`, { reason: "wrong_state" });
    this.#registered.delete(process);
    await this.#clockSet;
    const { request, streamId } = registered;
    const start = new ProcessStart(this.#connection, process, async () => {
      const { pid } = await this.#connection.guest.exec({ // a step: execSteps
        containerId,
        execId,
        processJson: Buffer.from(JSON.stringify(request.process)),
        stdio: { streamId, terminal: request.io.terminal, stdin: request.io.stdin, ...(request.terminalSize && { terminalSize: { ...request.terminalSize } }) },
        user: request.user,
        ownCgroup: request.ownCgroup,
      }, options);
      process.created(pid);
    });
    try {
      await start.run(execSteps, this.#steps(`start exec "${execId}"`, options));
    } catch (error) {
      await process.finish({ exitStatus: startFailureStatus(error), exitedAtUnixNanos: nowNanos(), oomKilled: false, reason: "start_failed" });
      throw error;
    }
    process.running();
    this.#emit("exec_start", containerId, execId);
    return process;
  }

  /** Sends a signal to a process; `all`: to every process of the container, or SIGKILL to an exec with a cgroup of its own and all it has started. */
  async kill(containerId: string, execId: string, signal: number, all: boolean, options: WaitOptions): Promise<void> {
    const process = this.process(containerId, execId);
    process.requireRunning(`send signal ${signal}`);
    this.#requireRunning(`send signal ${signal}`);
    if (all && containerId !== "" && execId !== "" && signal === SIGKILL) {
      await this.#connection.guest.killTree({ containerId, execId }, options);
      return;
    }
    await this.#connection.agent.signalProcess({ containerId, execId: all ? "" : execId, signal }, options);
  }

  async resize(containerId: string, execId: string, size: { readonly rows: number; readonly columns: number }, options: WaitOptions): Promise<void> {
    const process = this.process(containerId, execId);
    if (!process.terminal || process.state === "stopped") return;
    this.#requireRunning("resize terminal");
    await this.#connection.agent.ttyWinResize({ containerId, execId, row: size.rows, column: size.columns }, options);
  }

  /** Freezes the processes of one container; the rest of the sandbox goes on. */
  async pause(containerId: string, options: WaitOptions): Promise<void> {
    this.#requireRunning(`pause container "${containerId}"`);
    const container = this.container(containerId);
    container.require("pause");
    await this.#connection.agent.pauseContainer({ containerId }, options);
    container.moveTo("paused");
    this.#emit("pause", containerId);
  }

  async resume(containerId: string, options: WaitOptions): Promise<void> {
    this.#requireRunning(`resume container "${containerId}"`);
    const container = this.container(containerId);
    container.require("resume");
    await this.#connection.agent.resumeContainer({ containerId }, options);
    container.moveTo("running");
    this.#emit("unpause", containerId);
  }

  /** Changes limits of a container; what the change does not name stays. Nothing has changed when it fails. */
  async update(containerId: string, change: OciResources, options: WaitOptions): Promise<void> {
    return this.#queue.run(async () => {
      const operation = `update container "${containerId}"`;
      this.#requireRunning(operation);
      const container = this.container(containerId);
      container.require("update");
      await withUndo(async (undo) => {
        const update = new ContainerUpdate(container, change, this.#room, this.#connection.agent, undo);
        await this.#steps(operation, options).runAll(updateSteps, update);
        container.resources = update.merged;
        this.#note("container", containerId, (saved) => withFields(saved, { resources: update.merged }), true);
        undo.move();
      });
    });
  }

  /** Gives containers without a limit of their own a step more memory, up to the sandbox's maximum. False: they may not have more. */
  async growMemory(options: WaitOptions): Promise<boolean> {
    return this.#queue.run(async () => {
      const operation = `grow sandbox "${this.config.sandboxId}"`;
      this.#requireRunning(operation);
      if (!this.#room.canGrow) return false;
      await withUndo(async (undo) => {
        await this.#steps(operation, options).runAll(growSteps, { room: this.#room, undo });
        undo.move();
      });
      return true;
    });
  }

  /** What a container uses, from the guest's cgroup and network; of one that has ended, what it used. */
  async stats(containerId: string, options: WaitOptions): Promise<StatsContainerResponse> {
    this.#requireRunning(`statistics of container "${containerId}"`);
    this.container(containerId).require("stats");
    return this.#connection.agent.statsContainer({ containerId }, options);
  }

  /** What the VM has now. */
  get size(): SandboxSize { return this.#room.size; }

  /** Stops the vCPUs: nothing in the sandbox runs, and it costs no CPU. */
  async pauseSandbox(options: WaitOptions): Promise<void> {
    return this.#queue.run(async () => {
      this.#requireRunning(`pause sandbox "${this.config.sandboxId}"`);
      await this.vm.pause(options);
      this.#notePaused(true);
      this.#moveTo("paused");
      this.#emit("pause", "");
    });
  }

  /** Lets the vCPUs go on and sets the guest's clock, which stood still with them. */
  async resumeSandbox(options: WaitOptions): Promise<void> {
    return this.#queue.run(async () => {
      if (this.#state !== "paused") throw new RuntimeError("failed_precondition", `resume sandbox "${this.config.sandboxId}": it is ${this.#state}, must be paused`, { reason: "wrong_state" });
      this.#notePaused(false);
      await this.vm.resume(options);
      this.#moveTo("running");
      const nowMs = Date.now();
      await this.#connection.agent.setGuestDateTime({ Sec: BigInt(Math.floor(nowMs / 1000)), Usec: BigInt((nowMs % 1000) * 1000) }, options);
      void this.#shareMemory(); // handles its failures
      this.#emit("unpause", "");
    });
  }

  get agent(): AgentClient {
    return this.#connection;
  }

  /** Forgets an exec that has ended or was never started. */
  deleteExec(containerId: string, execId: string): GuestProcess {
    const process = this.process(containerId, execId);
    if (process.state === "running") throw new RuntimeError("failed_precondition", `delete exec "${execId}": it is running`, { reason: "wrong_state" });
    this.#forgetExec(process);
    return process;
  }

  #addExec(process: GuestProcess, autoRemove: boolean): void {
    const { containerId, execId } = process;
    (containerId === "" ? this.vmProcesses : this.container(containerId).execs).set(execId, process);
    if (!autoRemove) return;
    // Not at once: a client whose owner died at that moment comes back to ask how the process ended.
    const forget = (): void => { if (this.#state === "running" || this.#state === "paused") this.#forgetExec(process); };
    void process.wait().then(() => setTimeout(forget, execLingerMs).unref()); // never rejects
  }

  #forgetExec(process: GuestProcess): void {
    const { containerId, execId } = process;
    this.#registered.delete(process);
    (containerId === "" ? this.vmProcesses : this.containers.get(containerId)?.execs)?.delete(execId);
    this.#context.ledger.strike({ kind: "exec", name: processKey(process) });
  }

  /**
   * Ends every process of a container at once. Allowed in every state; of one that has ended nothing
   * is asked. A guest that does not do as it is told within the time does not hold the caller: then
   * the container counts as ended here, with 137.
   */
  async stopContainer(containerId: string, options: WaitOptions): Promise<Container> {
    const container = this.container(containerId);
    container.require("stop");
    if (container.state === "stopped") return container;
    const limits = { ...options, timeoutMs: Math.min(options.timeoutMs ?? Infinity, containerStopTimeoutMs) };
    try {
      this.#requireRunning(`stop container "${containerId}"`);
      await this.#connection.agent.signalProcess({ containerId, execId: "", signal: SIGKILL }, limits);
      await container.init.wait(limits);
    } catch (error) {
      this.#context.log.warn("container not stopped in order", { containerId, error: describeError(error) });
      await this.#finish(container.init, { exitStatus: lostExitStatus, exitedAtUnixNanos: nowNanos(), oomKilled: false, reason: "forced" });
    }
    return container;
  }

  /** Removes a container that has ended, or was never started, from the guest and gives back what it held. */
  async deleteContainer(containerId: string, options: WaitOptions): Promise<Container> {
    return this.#queue.run(async () => {
      const container = this.container(containerId);
      container.require("delete");
      if (container.state === "created") await this.stopContainer(containerId, options);
      if (this.#state === "running") {
        await this.#connection.agent.removeContainer({ containerId }, options);
        this.#leftGuest.add(containerId);
      }
      const failures = await container.release();
      this.#leftGuest.delete(containerId);
      this.#context.ledger.strike(...[...container.execs.values()].map((exec) => ({ kind: "exec", name: processKey(exec) })));
      this.containers.delete(containerId);
      this.#emit("destroy", containerId);
      for (const failure of failures) this.#context.log.warn("container released incompletely", { containerId, error: describeError(failure) });
      return container;
    });
  }

  /**
   * Lets go of the agent, which forgets what it kept for us, pauses the VM and writes its state without its
   * memory. Afterwards the sandbox can only be stopped. `rehearsals`: how often the agent is met before that as the
   * owners of clones will meet it, and met again, so that containers have their own names in the end.
   */
  async saveTemplate(stateFd: number, { rehearsals = 0, ...options }: WaitOptions & { readonly rehearsals?: number }): Promise<void> {
    let connection = this.#connection;
    await connection.guest.acknowledgeEvents({ upToSequence: this.#acknowledged }, options);
    this.#saved = true;
    const away = [...this.containers.keys()].map((id) => [id, `${id}-rehearsal`] as const);
    const back = away.map(([id, other]) => [other, id] as const);
    for (let round = 0; round < rehearsals; round++) {
      for (const names of [away, back]) {
        connection.close();
        connection = await rehearseMeeting(this.config, this.#context.drivers, Object.fromEntries(names), options);
      }
    }
    await this.vm.save(stateFd, () => connection.close(), options);
  }

  /**
   * Saves the sandbox as it is, and lets it go on unless told otherwise. `copyDisk` is called for each
   * disk that is written to, while the guest stands still.
   * @throws RuntimeError `failed_precondition` (reason `shares_in_use`): host folders cannot be saved.
   */
  async capture(files: Pick<CaptureTarget, "stateFd" | "memoryFd">, copyDisk: (diskId: string, path: string) => Promise<void>, { goOn, ...options }: WaitOptions & { readonly goOn: boolean }): Promise<CapturedSandbox> {
    return this.#queue.run(async () => {
      const step = `save sandbox "${this.config.sandboxId}"`;
      this.#requireRunning(step);
      const containers = savedContainers(this.#context.ledger);
      const sharing = containers.filter(({ shares }) => shares.length > 0).map(({ name, bundle }) => `container "${name.slice(0, 12)}" (${bundleHostMounts(bundle).join(", ")})`);
      if (sharing.length > 0) throw new RuntimeError("failed_precondition", `${step}: it shows folders of the host to ${sharing.join(", ")}, and they cannot be saved`, { reason: "shares_in_use", hint: "remove that container first, or run it without volumes" });
      if (this.#shares !== undefined) await this.#steps(step, options).runAll(withdrawSharesSteps, this.#shareBuild(this.#shares));
      const toldAs = (error: unknown): never => { throw RuntimeError.wrap(error, step); };
      const plugged = await this.#guard(this.vm.describePlugged(options)).catch(toldAs);
      const pathOf = new Map(containers.flatMap(({ disks }) => disks.map(({ diskId, path }) => [diskId, path] as const)));
      const written = plugged.disks.filter(({ readOnly }) => !readOnly).map(({ diskId }) => diskId);
      // Taken while the guest stands still: an exec that it has was recorded before it got it.
      let processes: Pick<CapturedSandbox, "containers" | "execs"> | undefined;
      const result = await this.vm.capture({
        ...files, goOn,
        whilePaused: async () => {
          processes = this.#savedProcesses();
          for (const diskId of written) await copyDisk(diskId, pathOf.get(diskId) ?? "");
        },
      }, options).catch(toldAs);
      return { ...result, plugged, containers, execs: [], ...processes, images: plugged.disks.filter(({ readOnly }) => readOnly).map(({ diskId }) => ({ diskId, path: pathOf.get(diskId) ?? "" })), statuses: new Map([...this.containers].map(([id, { state }]) => [id, state])), size: this.size };
    });
  }

  /** Shows the shared folder to the guest again, from which it was taken so that the guest could be saved. */
  async #serveShares(shares: SandboxShares, steps: Steps): Promise<void> {
    const build = this.#shareBuild(shares);
    const withdraw = (): Promise<void> => withdrawShares(build, { timeoutMs: withdrawTimeoutMs });
    // Of what an owner before this one has left half-made.
    await withdraw();
    await withUndo(async (undo) => {
      undo.add("shared folder", withdraw);
      await steps.runAll(serveSharesSteps, build);
      undo.move();
    });
  }

  /** The undo is not looked at: what ends the first server, with the sandbox, ends any later one. */
  #shareBuild(shares: SandboxShares): ShareBuild {
    return { vm: this.vm, connection: this.#connection, shares, shareDevice: undefined, undo: new UndoStack() };
  }

  /** What the ledger has of the processes, and how much of their output has come. */
  #savedProcesses(): Pick<CapturedSandbox, "containers" | "execs"> {
    const withPositions = <T extends SavedContainer | SavedExec>(saved: T, process: GuestProcess | undefined): T => {
      const received = process?.io.received;
      return { ...saved, io: { ...saved.io, stdoutFrom: received?.get(1) ?? saved.io.stdoutFrom ?? 0, stderrFrom: received?.get(2) ?? saved.io.stderrFrom ?? 0 } };
    };
    return {
      containers: savedContainers(this.#context.ledger).map((saved) => withPositions(saved, this.containers.get(saved.name)?.init)),
      execs: savedExecs(this.#context.ledger).map((saved) => withPositions(saved, saved.containerId === "" ? this.vmProcesses.get(saved.execId) : this.#find(saved.containerId, saved.execId))),
    };
  }

  /** Ends the VM: politely within the time, then by force; gives everything back. Later calls get the first one's outcome. */
  stop(timeoutMs: number = powerOffTimeoutMs): Promise<void> {
    this.#stopping ??= this.#stop(timeoutMs);
    return this.#stopping;
  }

  /** Every part is bounded, and none of them keeps the next from being done. */
  async #stop(timeoutMs: number): Promise<void> {
    const { log } = this.#context;
    const before = this.#state;
    this.#moveTo("stopping");
    this.#note("sandbox", "sandbox", (saved) => withFields(saved, { phase: "stopping" }));
    try {
      if (timeoutMs > 0) {
        // A guest that stands still cannot end in order.
        if (before === "paused") await this.vm.resume({ timeoutMs: timeoutMs / 2 });
        await this.#connection.guest.powerOff({ graceMs: Math.floor(timeoutMs / 2) }, { timeoutMs: timeoutMs / 2 });
        await orAbandon(this.vm.exited, "power off", { timeoutMs: timeoutMs / 2 });
      }
    } catch (error) {
      log.info("polite stop failed, ending the VM by force", { error: describeError(error) });
    }
    try {
      await orAbandon(this.vm.kill().then(() => this.ended), "end the VM", { timeoutMs: forceTimeoutMs });
    } catch (error) {
      log.error("the VM did not end", { error: describeError(error) });
      await this.#endProcesses();
    }
    const failures = await this.#giveBack();
    for (const failure of failures) log.error("sandbox released incompletely", { error: describeError(failure) });
    this.#moveTo("stopped");
  }

  /** What the containers held first: it lies on what the sandbox holds. */
  async #giveBack(): Promise<unknown[]> {
    const failures: unknown[] = [];
    for (const container of this.containers.values()) failures.push(...await container.release());
    return [...failures, ...await this.#teardown.run()];
  }

  /** Removes a container from the guest; "not there" is success, and so is a guest that is gone. */
  async #removeFromGuest(containerId: string): Promise<void> {
    if (this.#leftGuest.has(containerId) || this.#state !== "running") return;
    try {
      await this.#connection.agent.removeContainer({ containerId }, { timeoutMs: containerStopTimeoutMs });
    } catch (error) {
      if (!RuntimeError.is(error, "not_found") && !RuntimeError.is(error, "unavailable")) throw error;
    }
  }

  /** That of the oldest container which shares and is not over: its first process is the namespace's. */
  #sharedPidNamespace(): string | undefined {
    const leader = [...this.containers.values()].find(({ bundle, state }) => state !== "stopped" && bundleSharesPid(bundle));
    return leader === undefined ? undefined : `/proc/${leader.init.guestPid}/ns/pid`;
  }

  #steps(operation: string, options: WaitOptions): Steps {
    return new Steps(operation, { ...options, hook: this.#context.hook, guard: this.#guard, log: this.#context.log, observer: this.#context.observer });
  }

  #requireRunning(operation: string): void {
    requireSandboxRunning(this.config.sandboxId, this.#state, operation);
  }

  #moveTo(state: SandboxState): void {
    this.#state = nextSandboxState(this.config.sandboxId, this.#state, state);
  }

  async #watchVm(): Promise<VmExit> {
    const exit = await this.vm.exited;
    this.#connection.close();
    if (this.#state !== "stopping" && this.#state !== "stopped") {
      this.#endReason ??= endReasons[exit.reason];
      this.#context.log.error("the VM has ended", { error: describeError(vmDied(exit)) });
    }
    if (this.#state !== "stopped") this.#moveTo("stopping");
    await this.#endProcesses();
    return exit;
  }

  /** Whoever touches a volume now waits for ever, and nothing can end it: neither a signal nor an orderly end of the guest. */
  async #endWithoutShares(): Promise<void> {
    if (this.#stopping !== undefined || this.#state === "stopping" || this.#state === "stopped") return;
    this.#context.log.error("virtiofsd has ended, ending the VM");
    this.#endReason = "virtiofsd_died";
    await this.vm.kill().catch((error: unknown) => this.#context.log.error("the VM did not end", { error: describeError(error) }));
  }

  /** No process outlives its VM. */
  async #endProcesses(): Promise<void> {
    const end: ProcessEnd = { exitStatus: lostExitStatus, exitedAtUnixNanos: nowNanos(), oomKilled: false, reason: this.#endReason ?? endReasons.died };
    const processes = [...this.containers.values()].flatMap((container) => container.processes).concat([...this.vmProcesses.values()]);
    await Promise.all(processes.map((process) => this.#finish(process, end)));
  }

  async #followEvents(): Promise<void> {
    const order = new EventOrder(this.#acknowledged);
    try {
      for await (const event of this.#connection.guest.events({ afterSequence: this.#acknowledged })) {
        if (!order.accept(event.sequence)) continue;
        // Not awaited: a slow drain of one process must not hold up the exits of the others.
        void this.#handle(event).catch((error: unknown) => this.#context.log[this.#stopping === undefined ? "error" : "debug"]("event not handled", { error: describeError(error) }));
      }
    } catch (error) {
      // Nobody can tell what else such a guest says; its sandbox ends, and no other.
      this.#context.log[RuntimeError.is(error, "data_loss") ? "error" : "debug"]("agent events ended", { error: describeError(error) });
    }
    // Without its agent a running VM is of no use to anybody: its processes can be neither seen nor stopped.
    if (this.#stopping === undefined && !this.#saved) await this.vm.kill();
  }

  async #handle(event: Event): Promise<void> {
    const { kind } = event;
    if (kind.case === "exit") {
      const { containerId, execId, exitStatus, exitedAtUnixNanos, oomKilled, signal } = kind.value;
      const processes = containerId === "" ? this.vmProcesses.get(execId) : this.#find(containerId, execId);
      if (processes !== undefined) await this.#finish(processes, { exitStatus, exitedAtUnixNanos: plausibleTime(exitedAtUnixNanos), oomKilled, signal, reason: "" });
    } else if (kind.case === "oom") {
      this.#emit("oom", kind.value.containerId);
    } else if (kind.case === "memoryShort") {
      await (this.#growing ??= this.#growOnPressure().finally(() => { this.#growing = undefined; }));
    }
    await this.#acknowledge(event.sequence);
  }

  /** A guest gives memory back in its own time; what its containers may use together follows, so that they can be short of it again. */
  async #shareMemory(): Promise<void> {
    await this.#room.share({ timeoutMs: growTimeoutMs }).catch((error: unknown) => this.#context.log.debug("the guest was not told of its memory", { error: describeError(error) }));
  }

  async #growOnPressure(): Promise<void> {
    const { log } = this.#context;
    try {
      if (await this.growMemory({ timeoutMs: growTimeoutMs })) log.info("the guest was short of memory and has got more", { memoryBytes: this.size.memoryBytes });
      else log.info("the guest is short of memory and has all it may have", { memoryBytes: this.size.memoryBytes });
    } catch (error) {
      log.warn("the guest is short of memory and could not be given more", { error: describeError(error) });
    }
  }

  /** Events are done with in any order, but acknowledged without a gap: what the agent forgets must be on disk here. */
  async #acknowledge(sequence: bigint): Promise<void> {
    this.#handled.add(sequence);
    const before = this.#acknowledged;
    while (this.#handled.delete(this.#acknowledged + 1n)) this.#acknowledged++;
    if (this.#acknowledged > before) await this.#connection.guest.acknowledgeEvents({ upToSequence: this.#acknowledged }, { timeoutMs: powerOffTimeoutMs });
  }

  #find(containerId: string, execId: string): GuestProcess | undefined {
    const container = this.containers.get(containerId);
    return execId === "" ? container?.init : container?.execs.get(execId);
  }

  async #finish(process: GuestProcess, end: ProcessEnd): Promise<void> {
    if (process.end !== undefined) return;
    const container = process.execId === "" ? this.containers.get(process.containerId) : undefined;
    const first = await process.finish(end, (recorded) => {
      container?.moveTo("stopped");
      if (container !== undefined) this.#context.recordEnd(container, recorded);
      // The first one is durable already when the container has a folder with its status.
      this.#note(container === undefined ? "exec" : "container", container?.containerId ?? processKey(process), (saved) => withFields(saved, { end: saveEnd(recorded) }), container === undefined || container.backing.containerFolder === "");
    });
    if (first) this.#emit(process.execId === "" ? "die" : "exec_die", process.containerId, process.execId, { exitCode: String(end.exitStatus), ...(end.reason !== "" && { reason: end.reason }) });
  }

  /** How long an owner before this one was to keep the sandbox. */
  get keeping(): SavedKeeping | undefined {
    return savedSandbox(this.#context.ledger)?.keeping;
  }

  /** Notes for a new owner how long the sandbox is to be kept. */
  noteKeeping(keeping: SavedKeeping): void {
    this.#note("sandbox", "sandbox", (saved) => withFields(saved, { keeping }));
  }

  /** Not durable: a crash of the host takes the VM along. */
  #notePaused(paused: boolean): void {
    this.#note("sandbox", "sandbox", (saved) => withFields(saved, { paused }));
  }

  /** Changes a record of the ledger that is there. */
  #note(kind: string, name: string, change: (saved: ResourceRecord) => ResourceRecord, durable = false): void {
    const saved = this.#context.ledger.find(kind, name);
    try {
      if (saved !== undefined) this.#context.ledger.note(change(saved), { durable });
    } catch (error) {
      // A full disk must not hold a waiter up; a new owner would know less.
      this.#context.log.error("record not written", { kind, name, error: describeError(error) });
    }
  }

  /** Puts containers and processes in their places as they were before the owner died. */
  #restore(adoption: SandboxAdoption): void {
    const { vm: { size, disks }, containers, execs, listed } = adoption;
    this.#nextStreamId = adoption.nextStreamId;
    this.#room.adopt(size, new Map(containers.map(({ name, resources }) => [name, resources])));
    for (const saved of containers) {
      for (const { path, diskId } of saved.disks) this.#disks.adopt(path, diskId, disks.get(diskId));
      const inGuest = listed.get(processKey({ containerId: saved.name, execId: "" }));
      const init = adoption.process({ ...saved, containerId: saved.name, execId: "" });
      const container = Container.restore(saved, init, stateOf(inGuest?.status, saved.end !== undefined), this.#teardownOf(saved, init));
      if (inGuest === undefined) this.#finishDeletion(container);
      else this.containers.set(saved.name, container);
    }
    for (const saved of execs) this.#restoreExec(saved, adoption);
    const known = new Set(containers.map(({ name }) => name));
    for (const { containerId } of listed.values()) if (containerId !== "" && !known.has(containerId)) this.#context.log.warn("the guest has a container that nobody made", { containerId });
  }

  #restoreExec(saved: SavedExec, adoption: SandboxAdoption): void {
    const { containerId, execId, streamId, autoRemove } = saved;
    if (containerId !== "" && !this.containers.has(containerId)) return this.#context.ledger.strike(saved);
    const process = adoption.process(saved);
    // In a copy nobody knows of an exec that was not started before.
    if (adoption.record.phase === "creating" && process.state === "created") return this.#context.ledger.strike(saved);
    this.#addExec(process, autoRemove);
    if (process.state === "created") this.#registered.set(process, { request: { ...saved, io: { ...saved.io, log: undefined }, terminalSize: saved.terminalSize, containerId, execId }, streamId });
  }

  /** What a container from an earlier owner holds, to be given back as if it had been made here. */
  #teardownOf({ name, disks, shares }: SavedContainer, init: GuestProcess): UndoStack {
    const teardown = new UndoStack();
    teardown.add("record", () => this.#context.ledger.strike({ kind: "container", name }));
    teardown.add(`room for container "${name}"`, () => this.#room.release(name));
    for (const { path } of disks) teardown.add(`disk "${path}"`, () => this.#disks.release(path));
    for (const share of shares) teardown.add(`share "${share}"`, () => this.#shares?.remove(share));
    teardown.add("stdio", () => init.io.close());
    teardown.add("container in the guest", () => this.#removeFromGuest(name));
    return teardown;
  }

  /** A container that the guest does not have: its owner died while it was being made, or removed. */
  #finishDeletion(container: Container): void {
    void this.#queue.run(async () => {
      for (const failure of await container.release()) this.#context.log.warn("container released incompletely", { containerId: container.containerId, error: describeError(failure) });
    });
  }

  #emit(action: SandboxEvent["action"], containerId: string, execId = "", attributes: Readonly<Record<string, string>> = {}): void {
    this.#context.onEvent({ action, containerId, execId, attributes });
  }
}

/** docker's status of a command that could not be started. */
function startFailureStatus(error: unknown): number {
  if (RuntimeError.is(error) && error.reason === "executable_not_found") return 127;
  return 126;
}

/** The guest's word of when something ended, unless its clock is far from ours. */
function plausibleTime(unixNanos: bigint): bigint {
  const now = nowNanos();
  return unixNanos > now - maxClockErrorNanos && unixNanos < now + maxClockErrorNanos ? unixNanos : now;
}

function nowNanos(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

/** The state of a container from what the guest says; that its process ended is told by the event, with how. */
function stateOf(status: string | undefined, ended: boolean): ContainerState {
  if (ended) return "stopped";
  return status === "created" || status === "paused" ? status : "running";
}

function saveExec({ containerId, execId, process, user, io, terminalSize, autoRemove, ownCgroup }: ExecRequest, streamId: number): SavedExec {
  return { kind: "exec", name: execRecordName(containerId, execId), containerId, execId, streamId, io: saveIo(io), process, user, ...(terminalSize && { terminalSize }), autoRemove, ownCgroup: ownCgroup ?? false };
}

function withFields(record: ResourceRecord, fields: object): ResourceRecord {
  return { ...record, ...fields };
}
