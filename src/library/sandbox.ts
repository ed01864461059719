import { RuntimeError } from "../shared/base/errors.ts";
import type { SandboxConnection } from "./connection.ts";
import { SandboxFiles } from "./files.ts";
import type { LogEntry } from "./logs.ts";
import type { CallOptions, CloneOptions, Command, LoadOptions, PlaceOptions, RunOptions, SandboxOptions, SpawnOptions } from "./options.ts";
import { collectRun } from "./run.ts";
import type { RunResult } from "./run-result.ts";
import type { SandboxInfo } from "./sandbox-info.ts";
import type { SnapshotInfo } from "./snapshots.ts";
import type { SandboxStats } from "./stats.ts";
import { SandboxProcess } from "./sandbox-process.ts";

/**
 * Something that happened in a sandbox.
 *
 * @example
 * for await (const { time, action, attributes } of sandbox.events()) console.log(time.toISOString(), action, attributes["exitCode"] ?? "");
 */
export interface SandboxEvent {
  readonly time: Date;
  /** `start`, `die`, `oom`, `pause`, `unpause`, `exec_create`, `exec_start`, `exec_die`, ... */
  readonly action: string;
  /** Which process, for `exec_*`. */
  readonly execId: string;
  readonly attributes: Readonly<Record<string, string>>;
}

/** Time its first process gets between SIGTERM and SIGKILL, in milliseconds. */
const defaultStopTimeoutMs = 10_000;
/** Importing the package must cost next to nothing: what does the work is loaded when there is some. */
const loadEngine = () => import("./open-sandbox.ts");

/**
 * A virtual machine with one container in it, to run what is not trusted.
 *
 * It ends with the program that made it, however that ends, unless it was {@link detach}ed.
 *
 * @example
 * await using sandbox = await Sandbox.create({ image: "busybox", network: "none" });
 * const { stdout, exitCode } = await sandbox.run(["sh", "-c", "echo hi; exit 3"]);
 */
export class Sandbox implements AsyncDisposable {
  /** Its files. */
  readonly files: SandboxFiles;
  readonly #connection: SandboxConnection;
  readonly #describe: () => SandboxInfo;

  private constructor(connection: SandboxConnection, describe: () => SandboxInfo) {
    this.#connection = connection;
    this.#describe = describe;
    this.files = new SandboxFiles(connection);
  }

  /**
   * Starts a sandbox. Many at once are started one after the other, as the machine has room.
   *
   * @example
   * const sandbox = await Sandbox.create({ image: "busybox", memoryMiB: 256, cpus: 1, timeoutMs: 60_000 });
   */
  static async create(options: SandboxOptions): Promise<Sandbox> {
    const { createSandbox } = await loadEngine();
    return Sandbox.#over(await createSandbox(options));
  }

  /**
   * Connects to a sandbox that runs, by id, unique beginning of an id, or name; whoever made it, also
   * `casemate run -d`. It is not ended when this program ends, unless a lease is asked for.
   *
   * @example
   * await using web = await Sandbox.load("web");
   */
  static async load(idOrName: string, options: LoadOptions = {}): Promise<Sandbox> {
    const { loadSandbox } = await loadEngine();
    return Sandbox.#over(await loadSandbox(idOrName, options));
  }

  /**
   * All sandboxes of this user, oldest first; those that have ended too, if they were kept.
   *
   * @example
   * for (const { name, status } of await Sandbox.list()) console.log(name, status);
   */
  static async list(options: PlaceOptions = {}): Promise<SandboxInfo[]> {
    const { listSandboxes } = await loadEngine();
    return listSandboxes(options);
  }

  /** 64 hexadecimal digits, which {@link load} and `casemate` know it by. */
  get id(): string { return this.#connection.record.containerId; }
  get name(): string { return this.#connection.record.name; }
  get image(): string { return this.#connection.record.image; }
  get labels(): Readonly<Record<string, string>> { return this.#connection.record.labels; }

  /**
   * What is known of it now: status, ports.
   *
   * @example
   * const { status, ports } = sandbox.info();
   */
  info(): SandboxInfo {
    return this.#describe();
  }

  /**
   * Where a published port answers.
   *
   * @example
   * const sandbox = await Sandbox.create({ image: "busybox", command: ["httpd", "-f", "-p", "80"], ports: [80] });
   * await fetch(sandbox.url(80));
   */
  url(port: number, protocol = "http"): string {
    const published = this.info().ports.find((one) => one.port === port);
    if (published === undefined) throw new RuntimeError("failed_precondition", `port ${port} of sandbox "${this.name}" is not published`, { reason: "port_not_published", hint: `create the sandbox with ports: [${port}]` });
    const host = published.hostAddress.includes(":") ? `[${published.hostAddress}]` : published.hostAddress;
    return `${protocol}://${host}:${published.hostPort}`;
  }

  /**
   * Runs a command to its end and collects what it prints. An exit code other than 0 is a result, not
   * an error. When the time is over, the call is given up or too much is printed, the command and all
   * it has started are killed and the call rejects.
   *
   * @throws RunError `deadline_exceeded`, `canceled` or `resource_exhausted`, with what was printed.
   * @throws RuntimeError e.g. `not_found` (reason `executable_not_found`), `unavailable` (reason `sandbox_gone`).
   *
   * @example
   * const { stdout } = await sandbox.run("wc -c", { stdin: "four", timeoutMs: 5_000 });
   */
  async run(command: Command, options: RunOptions = {}): Promise<RunResult> {
    const { stdin, maxOutputBytes: _, ...spawn } = options;
    return collectRun(this.spawn(command, { ...spawn, stdin: stdin === undefined ? "ignore" : "pipe" }), options);
  }

  /**
   * Starts a process and gives its streams at once.
   *
   * @example
   * const shell = sandbox.spawn(["sh"], { pty: { rows: 24, columns: 80 } });
   * shell.stdin.write("exit\n");
   * await shell.wait();
   */
  spawn(command: Command, options: SpawnOptions = {}): SandboxProcess {
    return new SandboxProcess((...start) => this.#connection.start(...start), command, options);
  }

  /**
   * What happens in it from now on.
   *
   * @example
   * for await (const { action } of sandbox.events()) if (action === "oom") console.log("more memory!");
   */
  async *events(options: { readonly signal?: AbortSignal } = {}): AsyncGenerator<SandboxEvent, void, undefined> {
    for await (const { unixNanos, action, execId, attributes } of this.#connection.events(options.signal)) {
      yield { time: new Date(Number(unixNanos / 1_000_000n)), action, execId, attributes };
    }
  }

  /**
   * What its first process, {@link SandboxOptions.command}, has printed.
   *
   * @example
   * for await (const { text } of sandbox.logs({ follow: true })) process.stdout.write(text);
   */
  async *logs(options: { readonly follow?: boolean; readonly signal?: AbortSignal } = {}): AsyncGenerator<LogEntry, void, undefined> {
    const { readLogs } = await loadEngine();
    yield* readLogs(this.#connection.folders, this.#connection.record, { follow: options.follow ?? false, signal: options.signal });
  }

  /**
   * What it uses and what it costs this machine: CPU, memory, processes, network, disks.
   *
   * @throws RuntimeError `failed_precondition` (reason `sandbox_paused`) when the whole VM stands still.
   *
   * @example
   * const { memory, host } = await sandbox.stats();
   * console.log(`${memory.usedBytes} of ${memory.limitBytes} bytes; ${host.memoryBytes} on the host`);
   */
  async stats(options: CallOptions = {}): Promise<SandboxStats> {
    const { toStats } = await loadEngine();
    return toStats(this.id, await this.#connection.useWithin("statistics", options, ({ owner }) => owner.stats({ containerIds: [this.id] })));
  }

  /**
   * Sets the time limits of {@link SandboxOptions} anew, counted from now; what is left out is no limit.
   *
   * @example
   * await sandbox.setTimeouts({ idleTimeoutMs: 10 * 60_000 });
   */
  async setTimeouts(limits: { readonly timeoutMs?: number; readonly idleTimeoutMs?: number }, options: CallOptions = {}): Promise<void> {
    await this.#connection.limit({ totalMs: limits.timeoutMs ?? 0, idleMs: limits.idleTimeoutMs ?? 0 }, options);
  }

  /**
   * Freezes all its processes.
   *
   * @example
   * await sandbox.pause();
   */
  async pause(options: CallOptions = {}): Promise<void> {
    await this.#connection.freeze("pause", options);
  }

  /**
   * Lets them go on.
   *
   * @example
   * await sandbox.resume();
   */
  async resume(options: CallOptions = {}): Promise<void> {
    await this.#connection.freeze("resume", options);
  }

  /**
   * Lets it live on when this program ends. From now on this object's disposal only closes the connection.
   *
   * @example
   * await sandbox.detach();
   * console.log(`find it again with Sandbox.load("${sandbox.name}")`);
   */
  async detach(options: CallOptions = {}): Promise<void> {
    await this.#connection.release(options);
  }

  /**
   * Asks its first process to end, ends it by force after `timeoutMs` (default 10 s), and waits until the
   * sandbox is gone; the signal ends it by force at once.
   *
   * @example
   * await sandbox.stop({ timeoutMs: 3_000 });
   */
  async stop(options: CallOptions = {}): Promise<void> {
    const { stopSandbox } = await loadEngine();
    await stopSandbox(this.#connection, { timeoutMs: options.timeoutMs ?? defaultStopTimeoutMs, signal: options.signal });
  }

  /**
   * Ends it at once, with all that is in it, and waits until it is gone. Gone already is fine.
   *
   * @example
   * await sandbox.kill();
   */
  async kill(): Promise<void> {
    const { killSandbox } = await loadEngine();
    await killSandbox(this.#connection);
  }

  /**
   * Closes the connection. A sandbox that this object holds the lease of, which is one that it created and did not detach, is ended.
   *
   * @example
   * await sandbox.close();
   */
  async close(): Promise<void> {
    if (this.#connection.leased) await this.kill();
    else this.#connection.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Saves it with its memory, processes and disk; it goes on after a short pause, or ends with `stop`.
   *
   * @throws RuntimeError `already_exists`, or `failed_precondition` (reason `shares_in_use`) with host folders in it.
   *
   * @example
   * await sandbox.snapshot("warm");
   * await using again = await Sandbox.restore("warm");
   */
  async snapshot(name: string, options: { readonly stop?: boolean } & CallOptions = {}): Promise<SnapshotInfo> {
    const { snapshotSandbox } = await loadEngine();
    return snapshotSandbox(this.#connection, name, options);
  }

  /**
   * Starts a sandbox that goes on where a snapshot was made: with its processes, but an identity, addresses
   * and disks of its own. It ends with this program, as one that was created.
   *
   * @throws RuntimeError `not_found` when there is no such snapshot.
   *
   * @example
   * await using sandbox = await Sandbox.restore("warm");
   */
  static async restore(snapshot: string, options: CloneOptions = {}): Promise<Sandbox> {
    const { restoreSandbox } = await loadEngine();
    return Sandbox.#over(await restoreSandbox(snapshot, options));
  }

  /**
   * Live copies of it, made from one saving: it goes on after a short pause, with its open streams and
   * processes; each copy begins where it was. Published ports are published on free ones for each.
   *
   * @example
   * const copies = await sandbox.fork({ count: 3 });
   */
  async fork(options: CloneOptions & { readonly count?: number } = {}): Promise<Sandbox[]> {
    const { forkSandboxes } = await loadEngine();
    return Promise.all((await forkSandboxes(this.#connection, options)).map((connection) => Sandbox.#over(connection)));
  }

  /**
   * All snapshots, whoever made them.
   *
   * @example
   * for (const { name, pauseMs } of await Sandbox.snapshots()) console.log(name, pauseMs);
   */
  static async snapshots(options: PlaceOptions = {}): Promise<SnapshotInfo[]> {
    const { snapshotInfos } = await loadEngine();
    return snapshotInfos(options);
  }

  /**
   * Removes a snapshot; sandboxes that went on from it stay.
   *
   * @throws RuntimeError `not_found`.
   *
   * @example
   * await Sandbox.removeSnapshot("warm");
   */
  static async removeSnapshot(name: string, options: PlaceOptions = {}): Promise<void> {
    const { dropSnapshot } = await loadEngine();
    await dropSnapshot(name, options);
  }

  static async #over(connection: SandboxConnection): Promise<Sandbox> {
    const { describeSandbox } = await loadEngine();
    return new Sandbox(connection, () => describeSandbox(connection.folders, connection.record));
  }
}
