// A life of containers whose owner is killed again and again; nothing of theirs may be lost, doubled or left.
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { untilSandboxGone } from "../../src/host/containers/end-container.ts";
import type { HostSetup } from "../../src/host/containers/start-container.ts";
import { AttachClient, type AttachEnd } from "../../src/host/control/attach-client.ts";
import { connectOwner, type OwnerClient } from "../../src/host/control/owner-client.ts";
import { doneBefore } from "../../src/host/control/repeated-calls.ts";
import { startOwner } from "../../src/host/control/start-owner.ts";
import { sandboxMemoryBytes } from "../../src/host/sandbox/sandbox-config.ts";
import { readContainerLog } from "../../src/host/store/container-log.ts";
import { ContainerStore, type ContainerRecord } from "../../src/host/store/container-store.ts";
import { containerPaths } from "../../src/host/store/paths.ts";
import { orAbandon } from "../../src/shared/base/deadline.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { createRequest, execSpec, jsonAny, makeTaskContainer } from "../support/task-containers.ts";
import { OwnerKiller, type KillState, lifeStates, sandboxStates } from "./killer.ts";
import { NumberedOutput, outputBytes } from "./numbers.ts";
import { SeededRandom } from "./seeded-random.ts";

/** Options of {@link crashTest}. */
export interface CrashOptions {
  readonly seed: number;
  /** At least that many kills, and in each state five of them or an even share of fewer. */
  readonly kills: number;
  /** Numbers each exec prints; 1,500,000 are 10 MB. */
  readonly lines: number;
  /** Loses a byte and changes an exit code, to see that both are noticed. */
  readonly sabotage?: boolean;
  readonly onProgress?: (line: string) => void;
}

/** What came of it. */
export interface CrashReport {
  readonly kills: ReadonlyMap<KillState, number>;
  /** States with too few kills. */
  readonly missedStates: readonly KillState[];
  readonly supervisorKills: number;
  readonly killsAtWrites: number;
  readonly sandboxes: number;
  readonly lives: number;
  readonly comparedBytes: number;
  readonly lostBytes: number;
  readonly doubledBytes: number;
  readonly exitCodes: number;
  readonly wrongExitCodes: number;
  /** What is still there when all is over. */
  readonly leaked: readonly string[];
}

/** Of a long run: starts and ends of sandboxes are states like others. */
const wantedSandboxes = 6;
const execCount = 3;
/** Kills while the execs print: there the most is under way. */
const killsWhileRunning = 4;
/** A step of a life with its kill: a new owner, crun under emulation, and 30 MB of output, on a machine that may have much else to do. */
const stepTimeoutMs = 240_000;
const initExitCode = 9;
const pausedMs = 200;
const wantedKillsPerState = 5;
/** A kill that comes too late for a boot or an end is made up for by a further sandbox, but not for ever. */
const mostSandboxes = 10 * wantedSandboxes;
/** Counts until it is told to end; a number that was printed is never cut by the end. */
const initScript = `trap 'exit ${initExitCode}' TERM; i=1; while :; do echo $i; i=$((i+1)); sleep 0.05 & wait $!; done`;

/** Runs lives until there were enough kills. */
export async function crashTest(setup: HostSetup, options: CrashOptions): Promise<CrashReport> {
  const test = new CrashTest(setup, options);
  await test.run();
  return test.report();
}

class CrashTest {
  readonly #setup: HostSetup;
  readonly #options: CrashOptions;
  readonly #random: SeededRandom;
  readonly #killer: OwnerKiller;
  readonly #killsPerState: number;
  readonly #leaked: string[] = [];
  #sandboxes = 0;
  #lives = 0;
  #comparedBytes = 0;
  #lostBytes = 0;
  #doubledBytes = 0;
  #exitCodes = 0;
  #wrongExitCodes = 0;
  #sabotage: boolean;

  constructor(setup: HostSetup, options: CrashOptions) {
    this.#setup = setup;
    this.#options = options;
    this.#random = new SeededRandom(options.seed);
    this.#killer = new OwnerKiller(setup.folders, this.#random);
    this.#killsPerState = Math.min(wantedKillsPerState, Math.floor(options.kills / (lifeStates.length + sandboxStates.length)));
    this.#sabotage = options.sabotage ?? false;
  }

  report(): CrashReport {
    return {
      kills: this.#killer.kills, missedStates: this.#missed([...sandboxStates, ...lifeStates]), supervisorKills: this.#killer.supervisorKills, killsAtWrites: this.#killer.atWrites, sandboxes: this.#sandboxes, lives: this.#lives,
      comparedBytes: this.#comparedBytes, lostBytes: this.#lostBytes, doubledBytes: this.#doubledBytes, exitCodes: this.#exitCodes, wrongExitCodes: this.#wrongExitCodes, leaked: this.#leaked,
    };
  }

  async run(): Promise<void> {
    const livesPerSandbox = Math.max(1, Math.floor(this.#options.kills / wantedSandboxes / killsOfLife));
    // A kill while booting is a kill; what is to be noticed is in the life after it.
    const lifeDue = (): boolean => this.#killer.total < this.#options.kills || this.#sabotage || this.#missed(lifeStates).length > 0;
    while ((lifeDue() || this.#missed(sandboxStates).length > 0) && this.#sandboxes < mostSandboxes) {
      const sandboxId = `crash${randomBytes(4).toString("hex")}`;
      await this.#boot(sandboxId);
      const client = await connectOwner(this.#setup.folders, sandboxId);
      for (let life = 0; life < livesPerSandbox && lifeDue(); life++) {
        await this.#live(client, sandboxId);
        this.#lives++;
        this.#options.onProgress?.(`${this.#killer.total} kills, ${this.#lives} lives, ${this.#lostBytes} bytes lost, ${this.#doubledBytes} doubled, ${this.#wrongExitCodes} wrong exit codes`);
      }
      await this.#end(client, sandboxId);
    }
  }

  #missed(states: readonly KillState[]): KillState[] {
    return states.filter((state) => (this.#killer.kills.get(state) ?? 0) < this.#killsPerState);
  }

  /** A start whose owner is killed fails, and leaves nothing; the next one is let alone. */
  async #boot(sandboxId: string): Promise<void> {
    const { guestImage, folders, accelerator, template } = this.#setup;
    const config = {
      version: 1, sandboxId, folders, hostname: sandboxId, accelerator, ...guestPaths(guestImage), memoryBytes: sandboxMemoryBytes(0), vcpuCount: 1,
      shares: false, network: "user", ports: [], ...(template !== undefined && { template }), debug: true,
    } as const;
    this.#sandboxes++;
    let state: KillState = "boot";
    const killed = this.#killer.strike(() => state, sandboxId, 1_000);
    try {
      await startOwner(config, { timeoutMs: stepTimeoutMs });
      state = "idle";
      await killed;
      return; // it was up already, and goes on
    } catch (error) {
      if (!(RuntimeError.is(error) && error.reason === "owner_died")) throw error;
    }
    await killed;
    await untilSandboxGone(folders, sandboxId);
    this.#noteLeft(sandboxId, "a killed start");
    await startOwner(config, { timeoutMs: stepTimeoutMs });
  }

  /** create, start, execs with output, update, pause, resume, stop, delete. */
  async #live(client: OwnerClient, sandboxId: string): Promise<void> {
    const record = await makeTaskContainer(this.#setup.folders, sandboxId, ["sh", "-c", initScript]);
    const id = record.containerId;
    const step = async (phase: typeof lifeStates[number], work: () => Promise<unknown>, kills = 1): Promise<void> => {
      const struck = (async () => { for (let kill = 0; kill < kills; kill++) await this.#killer.strike(() => phase, sandboxId, kills === 1 ? undefined : 3_000); })();
      try {
        await orAbandon(work(), phase, { timeoutMs: stepTimeoutMs });
      } catch (error) {
        throw RuntimeError.wrap(error, phase);
      }
      await struck;
    };
    const initOutput = new NumberedOutput(), unused = new NumberedOutput();
    await step("create", () => client.call(async ({ task }) => { await task.create(createRequest(record, this.#setup.folders)); }, doneBefore.create));
    const init = await AttachClient.open(client, { containerId: id, execId: "" }, { stdin: undefined, stdout: initOutput, stderr: unused });
    const initEnd = init.run();
    initEnd.catch(() => { /* awaited below */ });
    await step("start", () => client.call(async ({ task }) => { await task.start({ id }); }, doneBefore.start));
    const execs: { readonly ended: Promise<void> }[] = [];
    await step("exec", async () => { for (let index = 0; index < execCount; index++) execs.push(await this.#exec(client, record, 11 + index)); });
    await step("running", async () => { /* the kills take their time */ }, killsWhileRunning);
    await step("update", () => client.call(async ({ task }) => { await task.update({ id, resources: jsonAny({ pids: { limit: 100 + this.#random.below(100) } }) }); }));
    await step("pause", () => client.call(async ({ task }) => { await task.pause({ id }); }, doneBefore.pause));
    await step("paused", () => new Promise((resolve) => { setTimeout(resolve, pausedMs); }));
    await step("resume", () => client.call(async ({ task }) => { await task.resume({ id }); }, doneBefore.resume));
    for (const { ended } of execs) await orAbandon(ended, "the end of an exec", { timeoutMs: stepTimeoutMs });
    await step("stop", async () => {
      await client.call(async ({ task }) => { await task.kill({ id, signal: constants.signals.SIGTERM }); }, doneBefore.kill);
      this.#compareCode(await client.call(async ({ task }) => (await task.wait({ id })).exitStatus), initExitCode);
    });
    this.#compareCode(codeOf(await orAbandon(initEnd, "the end of the first process", { timeoutMs: stepTimeoutMs })), initExitCode);
    const log = new NumberedOutput();
    for (const { fd, bytes } of readContainerLog(containerPaths(this.#setup.folders, id).log)) if (fd === 1) log.take(bytes);
    // What it printed last is not known otherwise; both must have come to the same end.
    this.#compare(log, Math.max(log.last, initOutput.last));
    this.#compare(initOutput, Math.max(log.last, initOutput.last));
    await step("delete", () => client.call(async ({ task }) => { await task.delete({ id }); }, doneBefore.delete));
    const status = new ContainerStore(this.#setup.folders).readStatus(id);
    this.#compareCode(status.status === "exited" ? status.exitCode : -1, initExitCode);
    new ContainerStore(this.#setup.folders).remove(record);
  }

  /** Starts an exec that prints its numbers and ends with the code; the result is its end, compared. */
  async #exec(client: OwnerClient, record: ContainerRecord, exitCode: number): Promise<{ readonly ended: Promise<void> }> {
    const execId = randomBytes(8).toString("hex"), id = record.containerId, { lines } = this.#options;
    const spec = execSpec(record, ["sh", "-c", `seq 1 ${lines}; exit ${exitCode}`], { holdOutput: true, autoRemove: true });
    await client.call(async ({ task }) => { await task.exec({ id, execId, terminal: false, spec }); }, doneBefore.create);
    const sabotaged = this.#sabotage;
    this.#sabotage = false;
    const output = new NumberedOutput(sabotaged ? outputBytes(lines) >> 1 : undefined);
    const attach = await AttachClient.open(client, { containerId: id, execId }, { stdin: undefined, stdout: output, stderr: new NumberedOutput() });
    await client.call(async ({ task }) => { await task.start({ id, execId }); }, doneBefore.start);
    const ended = attach.run().then((end) => {
      this.#compareCode(codeOf(end) + (sabotaged ? 1 : 0), exitCode);
      this.#compare(output, lines);
    });
    ended.catch(() => { /* awaited by the life */ });
    return { ended };
  }

  async #end(client: OwnerClient, sandboxId: string): Promise<void> {
    const struck = this.#killer.strike(() => "end", sandboxId);
    try {
      await orAbandon(client.call(async ({ owner }) => { await owner.stop({ timeoutMs: 2_000 }); }), "end", { timeoutMs: stepTimeoutMs });
    } catch (error) {
      if (!RuntimeError.is(error, "unavailable")) throw error; // it has gone without an answer, which was the point
    }
    await struck;
    client.close();
    await untilSandboxGone(this.#setup.folders, sandboxId);
    this.#noteLeft(sandboxId, "the end");
  }

  #compare(output: NumberedOutput, last: number): void {
    const { lost, doubled } = output.faults(last);
    this.#comparedBytes += output.bytes;
    this.#lostBytes += lost;
    this.#doubledBytes += doubled;
  }

  #compareCode(found: number, wanted: number): void {
    this.#exitCodes++;
    if (found !== wanted) this.#wrongExitCodes++;
  }

  /** Names of the sandbox in the run folder: claims and folders. Processes, mounts and links are the host watch's. */
  #noteLeft(sandboxId: string, after: string): void {
    const { run } = this.#setup.folders;
    for (const folder of ["sandboxes", "users", "network-slots"].map((name) => join(run, name)).filter((path) => existsSync(path))) {
      for (const name of readdirSync(folder)) if (folder.endsWith("sandboxes") || !name.startsWith(".draft")) this.#leaked.push(`${folder}/${name} after ${after} of ${sandboxId}`);
    }
  }
}

/** Kills of one life: one a step, more while the execs run. */
const killsOfLife = lifeStates.length - 1 + killsWhileRunning;

function guestPaths({ kernelPath, initramfsPath, rootImagePath }: HostSetup["guestImage"]): Pick<HostSetup["guestImage"], "kernelPath" | "initramfsPath" | "rootImagePath"> {
  return { kernelPath, initramfsPath, rootImagePath };
}

function codeOf(end: AttachEnd): number {
  return end.type === "exit" ? end.exitStatus : -1;
}

/** The report as people read it; the last line says whether all is well. */
export function formatReport(report: CrashReport): string {
  const states = [...report.kills].map(([state, count]) => `${state} ${count}`).join(", ");
  const total = [...report.kills.values()].reduce((sum, count) => sum + count, 0);
  return [
    `${total} kills of the owner (${report.killsAtWrites} at a store write, ${report.supervisorKills} with its supervisor), by state: ${states}`,
    `${report.sandboxes} sandboxes, ${report.lives} lives, ${report.comparedBytes} bytes and ${report.exitCodes} exit codes compared`,
    ...report.missedStates.map((state) => `too few kills in state: ${state}`),
    ...report.leaked.map((what) => `leaked: ${what}`),
    `${report.wrongExitCodes} wrong exit codes`,
    `${report.lostBytes} lost, ${report.doubledBytes} doubled, ${report.leaked.length} leaked`,
    "",
  ].join("\n");
}

/** True when nothing was lost, doubled, wrong or left, and there were kills enough in every state. */
export function isClean(report: CrashReport): boolean {
  return report.lostBytes + report.doubledBytes + report.wrongExitCodes + report.leaked.length + report.missedStates.length === 0;
}
