import { create } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { randomBytes } from "node:crypto";
import { constants } from "node:os";
import { Writable } from "node:stream";
import { orAbandon } from "../shared/base/deadline.ts";
import { RuntimeError } from "../shared/base/errors.ts";
import { PushQueue } from "../shared/base/push-queue.ts";
import { ExecSpecSchema, type OwnerEvent } from "../shared/protocol/gen/owner_pb.ts";
import { buildExecProcess } from "../host/containers/build-spec.ts";
import { ContainerFileClient } from "../host/containers/container-file-client.ts";
import { signalNumber } from "../host/containers/end-container.ts";
import { AttachClient, type AttachedExit } from "../host/control/attach-client.ts";
import { connectOwner, isConnectionLost, type OwnerClient } from "../host/control/owner-client.ts";
import { doneBefore } from "../host/control/repeated-calls.ts";
import { ContainerStore, type ContainerRecord } from "../host/store/container-store.ts";
import type { StateFolders } from "../host/store/paths.ts";
import type { CallOptions, Command, SpawnOptions } from "./options.ts";
import type { ProcessExit } from "./run-result.ts";
import type { ProcessStreams, RunningProcess } from "./sandbox-process.ts";

const defaultTerminalSize = { rows: 24, columns: 80 };

/** What is asked for when the sandbox is to end by itself; 0: never. */
export interface Limits {
  readonly totalMs: number;
  readonly idleMs: number;
}

/**
 * A program's connection with the owner of one sandbox. It keeps the program running only while
 * something is asked of it, holds the lease if there is one, and goes on with the next owner when one dies.
 */
export class SandboxConnection {
  readonly folders: StateFolders;
  readonly record: ContainerRecord;
  readonly files: ContainerFileClient;
  readonly #client: OwnerClient;
  #leased = false;
  #lease: PushQueue<{ readonly release: boolean }> | undefined;
  #limits: { readonly totalMs: number; readonly idleMs: number; readonly setAtMs: number } | undefined;
  #uses = 0;
  #closed = false;

  private constructor(folders: StateFolders, record: ContainerRecord, client: OwnerClient) {
    this.folders = folders;
    this.record = record;
    this.#client = client;
    this.files = new ContainerFileClient(async () => client.owner, record.containerId);
    client.keepAlive(false);
  }

  /** Connects to the sandbox's owner and, if wanted, takes a lease. */
  static async open(folders: StateFolders, record: ContainerRecord, options: { readonly lease: boolean } & CallOptions): Promise<SandboxConnection> {
    const opened = connectOwner(folders, record.sandboxId).then(async (client) => {
      const connection = new SandboxConnection(folders, record, client);
      if (options.lease) await connection.#inUse(() => connection.#hold());
      return connection;
    });
    return orAbandon(opened, `connect to sandbox "${record.name}"`, options, (late) => {
      void late.release({}).catch(() => undefined).finally(() => late.close()); // whoever gave up wants nothing to end
    });
  }

  /** True while this program's end is the sandbox's end. */
  get leased(): boolean {
    return this.#leased;
  }

  /** Does something with the owner; until it is done the program does not end by itself. @throws RuntimeError `unavailable` (reason `sandbox_gone`). */
  async use<T>(work: (client: OwnerClient) => Promise<T>, settled?: (error: RuntimeError) => { readonly result: T } | undefined): Promise<T> {
    if (this.#closed) throw new RuntimeError("failed_precondition", `sandbox "${this.record.name}" is closed here`, { reason: "sandbox_closed" });
    if (this.#uses++ === 0) this.#client.keepAlive(true);
    try {
      return await this.#client.call(work, settled);
    } catch (error) {
      throw this.#explain(error);
    } finally {
      if (--this.#uses === 0) this.#client.keepAlive(false);
    }
  }

  /** As {@link use}, but no longer than the options allow; then the work is told by its signal, and what comes of it is dropped. */
  async useWithin<T>(what: string, options: CallOptions, work: (client: OwnerClient, signal: AbortSignal | undefined) => Promise<T>, settled?: (error: RuntimeError) => { readonly result: T } | undefined): Promise<T> {
    const { signal, timeoutMs } = options;
    if (signal === undefined && timeoutMs === undefined) return this.use((client) => work(client, undefined), settled);
    const over = new AbortController();
    try {
      return await orAbandon(this.use((client) => work(client, over.signal), settled), what, { signal, timeoutMs });
    } finally {
      over.abort();
    }
  }

  async limit({ totalMs, idleMs }: Limits, options: CallOptions = {}): Promise<void> {
    this.#limits = { totalMs, idleMs, setAtMs: performance.now() };
    await this.useWithin("set time limits", options, async ({ owner }) => owner.limit({ totalMs: BigInt(totalMs), idleMs: BigInt(idleMs) }));
  }

  /** The sandbox goes on without this program. */
  async release(options: CallOptions): Promise<void> {
    this.#leased = false;
    this.#lease?.push({ release: true });
    this.#lease = undefined;
    await this.useWithin("detach", options, async ({ owner }) => owner.inspect({})); // an answer: what was sent before has arrived
  }

  /** Nothing more is asked; a lease that is held ends the sandbox. */
  close(): void {
    this.#closed = true;
    this.#lease?.end();
    this.#client.close();
  }

  /** Freezes the sandbox's processes, or lets them go on. */
  async freeze(what: "pause" | "resume", options: CallOptions): Promise<void> {
    await this.useWithin(what, options, ({ task }) => task[what]({ id: this.record.containerId }).then(() => undefined), doneBefore[what]);
  }

  /** Starts a process of the sandbox, connected with the streams. */
  async start(command: Command, options: SpawnOptions, streams: ProcessStreams): Promise<RunningProcess> {
    const terminal = (options.pty ?? false) !== false;
    const size = typeof options.pty === "object" ? options.pty : defaultTerminalSize;
    const execId = randomBytes(8).toString("hex");
    const { containerId } = this.record;
    const process = buildExecProcess(this.record, {
      args: commandLine(command),
      env: Object.entries(options.env ?? {}).map(([name, value]) => `${name}=${value}`),
      terminal,
      privileged: options.privileged ?? false,
      workingDir: options.cwd,
    });
    const spec = create(ExecSpecSchema, {
      processJson: Buffer.from(JSON.stringify(process)), user: options.user ?? this.record.user, stdin: streams.stdin !== undefined,
      holdOutput: true, autoRemove: true, ownCgroup: true, ...(terminal && { terminalSize: { ...size } }),
    });
    const started = Promise.withResolvers<AttachClient>();
    const ended = this.#inUse(async (client) => {
      await client.call(({ task }) => task.exec({ id: containerId, execId, terminal, spec: anyPack(ExecSpecSchema, spec) }).then(() => undefined), doneBefore.create);
      const attach = await AttachClient.open(client, { containerId, execId }, { stdin: streams.stdin, stdout: patientSink(streams.stdout), stderr: patientSink(streams.stderr) });
      const moved = attach.run();
      moved.catch(() => undefined); // awaited below, unless the start fails first
      await client.call(({ task }) => task.start({ id: containerId, execId }).then(() => undefined), doneBefore.start);
      started.resolve(attach);
      await moved;
    }).finally(() => {
      for (const stream of [streams.stdout, streams.stderr]) stream.end();
    });
    const attach = await Promise.race([started.promise, ended.then(() => started.promise)]);
    const lost = ended.then((): never => { throw new RuntimeError("unavailable", "the sandbox ended", { reason: "sandbox_gone" }); });
    const exit = Promise.race([attach.exited, lost]).then(toExit);
    exit.catch(() => undefined); // whoever waits gets it
    return {
      exit,
      kill: (signal) => this.#kill(execId, typeof signal === "number" ? signal : signalNumber(signal), false),
      killTree: () => this.#kill(execId, constants.signals.SIGKILL, true),
      resize: (wanted) => attach.resize(wanted),
    };
  }

  /** What happens in the sandbox from now on. */
  async *events(signal: AbortSignal | undefined): AsyncGenerator<OwnerEvent> {
    try {
      yield* this.#client.owner.events({}, signal === undefined ? {} : { signal });
    } catch (error) {
      if (!RuntimeError.is(error, "canceled") && !RuntimeError.is(error, "unavailable")) throw error; // given up, or the sandbox has ended
    }
  }

  async #kill(execId: string, signal: number, all: boolean): Promise<void> {
    try {
      await this.use(async ({ task }) => task.kill({ id: this.record.containerId, execId, signal, all }).then(() => undefined), doneBefore.kill);
    } catch (error) {
      // Ended already, alone or with its sandbox.
      if (!RuntimeError.is(error, "not_found") && !RuntimeError.is(error, "unavailable")) throw error;
    }
  }

  /** As {@link use}, for what must not be done twice: the work itself says what may be repeated. */
  async #inUse<T>(work: (client: OwnerClient) => Promise<T>): Promise<T> {
    const over = Promise.withResolvers<void>();
    const used = this.use(() => over.promise);
    try {
      return await work(this.#client);
    } catch (error) {
      throw this.#explain(error);
    } finally {
      over.resolve();
      await used;
    }
  }

  #explain(error: unknown): unknown {
    return this.#meansGone(error) ? new RuntimeError("unavailable", `sandbox "${this.record.name}" has ended`, { reason: "sandbox_gone", cause: error }) : error;
  }

  /** A sandbox that is about to end has lost its files, and its owner still answers. */
  #meansGone(error: unknown): boolean {
    if (isConnectionLost(error)) return true;
    if (!RuntimeError.is(error)) return false;
    return error.reason === "no_owner" || error.reason === "owner_lost" || (error.reason === "wrong_state" && new ContainerStore(this.folders).read(this.record.containerId) === undefined);
  }

  /** Takes the lease, and again from the next owner when one dies: a lease is worth nothing with an owner that does not know of it. */
  async #hold(): Promise<void> {
    const inputs = new PushQueue<{ readonly release: boolean }>();
    const answers = this.#client.owner.lease(inputs)[Symbol.asyncIterator]();
    await answers.next();
    void answers.next().catch(() => undefined); // the call lasts as long as the lease
    this.#lease = inputs;
    this.#leased = true;
    void this.#client.closed.then(() => this.#holdAgain());
  }

  async #holdAgain(): Promise<void> {
    if (!this.#leased || this.#closed) return;
    try {
      await this.#client.reconnect();
      if (this.#limits !== undefined) {
        const { totalMs, idleMs, setAtMs } = this.#limits;
        const leftMs = totalMs === 0 ? 0 : Math.max(1, Math.round(totalMs - (performance.now() - setAtMs)));
        await this.#client.owner.limit({ totalMs: BigInt(leftMs), idleMs: BigInt(idleMs) });
      }
      await this.#hold();
    } catch {
      // The sandbox has ended: whoever asks something of it is told so.
    }
  }
}

/** A program with its arguments, or a line for a shell. */
export function commandLine(command: Command): readonly string[] {
  return typeof command === "string" ? ["/bin/sh", "-c", command] : command;
}

function toExit({ exitStatus, oomKilled, signal, reason }: AttachedExit): ProcessExit {
  if (reason !== "") throw new RuntimeError("unavailable", `the process did not end by itself: ${reason}`, { reason: "sandbox_gone" });
  const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0] as NodeJS.Signals | undefined; // the table's own keys
  return { exitCode: exitStatus, signal: signal === 0 ? null : name ?? null, oomKilled };
}

/** Passes on to a stream that its reader may have destroyed: then what comes is dropped, and the process goes on. */
function patientSink(target: Writable): Writable {
  const destroyed = new Promise<void>((resolve) => { target.once("close", resolve); });
  return new Writable({
    write(chunk: Buffer, _encoding, done) {
      const taken = target.destroyed ? Promise.resolve() : new Promise<void>((resolve) => { target.write(chunk, () => resolve()); });
      void Promise.race([taken, destroyed]).then(() => done());
    },
  });
}
