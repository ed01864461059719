import { create } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { Writable } from "node:stream";
import { eventually } from "../shared/base/deadline.ts";
import { RuntimeError } from "../shared/base/errors.ts";
import { PushQueue } from "../shared/base/push-queue.ts";
import { isFlocked } from "../shared/linux/flock.ts";
import { ExecSpecSchema, type OwnerEvent } from "../shared/protocol/gen/owner_pb.ts";
import { buildExecProcess } from "../host/containers/build-spec.ts";
import { ContainerFileClient } from "../host/containers/container-file-client.ts";
import { signalNumber } from "../host/containers/end-container.ts";
import { AttachClient, type AttachedExit } from "../host/control/attach-client.ts";
import { connectOwner, type OwnerClient } from "../host/control/owner-client.ts";
import type { ContainerRecord } from "../host/store/container-store.ts";
import { sandboxPaths, type StateFolders } from "../host/store/paths.ts";
import type { Command, SpawnOptions } from "./options.ts";
import type { ProcessExit } from "./run-result.ts";
import type { ProcessStreams, RunningProcess } from "./sandbox-process.ts";

/** An owner that died is back within 2 s (its supervisor's promise); the rest is for a loaded machine. */
const ownerBackMs = 10_000;
const defaultTerminalSize = { rows: 24, columns: 80 };

/** What is asked for when the sandbox is to end by itself; 0: never. */
export interface Limits {
  readonly totalMs: number;
  readonly idleMs: number;
}

/**
 * A program's connection with the owner of one sandbox. It keeps the program running only while
 * something is asked of it, holds the lease if there is one, and comes back when the owner does.
 */
export class SandboxConnection {
  readonly folders: StateFolders;
  readonly record: ContainerRecord;
  readonly files: ContainerFileClient;
  #client: Promise<OwnerClient> | undefined;
  #leased: boolean;
  #lease: PushQueue<{ readonly release: boolean }> | undefined;
  #uses = 0;
  #closed = false;

  private constructor(folders: StateFolders, record: ContainerRecord, leased: boolean) {
    this.folders = folders;
    this.record = record;
    this.#leased = leased;
    this.files = new ContainerFileClient(async () => (await this.#connect()).owner, record.containerId);
  }

  /** Connects to the sandbox's owner and, if wanted, takes a lease. */
  static async open(folders: StateFolders, record: ContainerRecord, options: { readonly lease: boolean }): Promise<SandboxConnection> {
    const connection = new SandboxConnection(folders, record, options.lease);
    await connection.#connect();
    return connection;
  }

  /** True while this program's end is the sandbox's end. */
  get leased(): boolean {
    return this.#leased;
  }

  /** Does something with the owner; until it is done the program does not end by itself. */
  async use<T>(work: (client: OwnerClient) => Promise<T>): Promise<T> {
    const client = await this.#connect();
    this.#uses++;
    client.keepAlive(true);
    try {
      return await work(client);
    } finally {
      if (--this.#uses === 0) client.keepAlive(false);
    }
  }

  async limit({ totalMs, idleMs }: Limits): Promise<void> {
    await this.use(async ({ owner }) => owner.limit({ totalMs: BigInt(totalMs), idleMs: BigInt(idleMs) }));
  }

  /** The sandbox goes on without this program. */
  async release(): Promise<void> {
    this.#leased = false;
    this.#lease?.push({ release: true });
    this.#lease = undefined;
    await this.use(async ({ owner }) => owner.inspect({})); // an answer: what was sent before has arrived
  }

  /** Nothing more is asked; a lease that is held ends the sandbox. */
  close(): void {
    this.#closed = true;
    this.#lease?.end();
    void this.#client?.then((client) => client.close(), () => undefined);
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
    const ended = this.use(async (client) => {
      await client.task.exec({ id: containerId, execId, terminal, spec: anyPack(ExecSpecSchema, spec) });
      const attach = await AttachClient.open(client, { containerId, execId }, { stdin: streams.stdin, stdout: patientSink(streams.stdout), stderr: patientSink(streams.stderr) });
      const moved = attach.run();
      moved.catch(() => undefined); // awaited below, unless the start fails first
      await client.task.start({ id: containerId, execId });
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
    const client = await this.#connect();
    try {
      yield* client.owner.events({}, signal === undefined ? {} : { signal });
    } catch (error) {
      if (!RuntimeError.is(error, "canceled") && !RuntimeError.is(error, "unavailable")) throw error; // given up, or the sandbox has ended
    }
  }

  async #kill(execId: string, signal: number, all: boolean): Promise<void> {
    try {
      await this.use(async ({ task }) => task.kill({ id: this.record.containerId, execId, signal, all }));
    } catch (error) {
      // Ended already, alone or with its sandbox.
      if (!RuntimeError.is(error, "not_found") && !RuntimeError.is(error, "unavailable")) throw error;
    }
  }

  #connect(): Promise<OwnerClient> {
    if (this.#closed) return Promise.reject(new RuntimeError("failed_precondition", `sandbox "${this.record.name}" is closed here`, { reason: "sandbox_closed" }));
    this.#client ??= this.#open();
    return this.#client;
  }

  async #open(): Promise<OwnerClient> {
    try {
      const client = await this.#dial();
      if (this.#leased) await this.#takeLease(client);
      void client.closed.then(() => {
        this.#client = undefined;
        // A lease is worth nothing with an owner that does not know of it.
        if (this.#leased && !this.#closed) this.#connect().catch(() => undefined);
      });
      client.keepAlive(this.#uses > 0);
      return client;
    } catch (error) {
      this.#client = undefined;
      throw error;
    }
  }

  /** An owner that died is started again while its VM lives; one whose lock nobody takes has ended in order. */
  async #dial(): Promise<OwnerClient> {
    const { folder, ownerLock } = sandboxPaths(this.folders, this.record.sandboxId);
    try {
      return await eventually(`connect to sandbox "${this.record.name}"`, async () => {
        try {
          return await connectOwner(this.folders, this.record.sandboxId);
        } catch (error) {
          if (!isFlocked(ownerLock) && !existsSync(folder)) throw error;
          return undefined;
        }
      }, { timeoutMs: ownerBackMs, intervalMs: 100 });
    } catch (error) {
      throw new RuntimeError("unavailable", `sandbox "${this.record.name}" has ended`, { reason: "sandbox_gone", cause: error });
    }
  }

  async #takeLease({ owner }: OwnerClient): Promise<void> {
    const inputs = new PushQueue<{ readonly release: boolean }>();
    const answers = owner.lease(inputs)[Symbol.asyncIterator]();
    await answers.next();
    void answers.next().catch(() => undefined); // the call lasts as long as the lease
    this.#lease = inputs;
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
