import type { MessageInitShape } from "@bufbuild/protobuf";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { PushQueue } from "../../shared/base/push-queue.ts";
import type { AttachInputSchema, AttachOutput } from "../../shared/protocol/gen/owner_pb.ts";
import type { OwnerClient } from "./owner-client.ts";
import { stdioPieceBytes, stdioWindowBytes } from "./stdio-limits.ts";

type Input = MessageInitShape<typeof AttachInputSchema>;

/** How an attached process ended; see ProcessExit in proto/casemate.proto. */
export interface AttachedExit {
  readonly exitStatus: number;
  readonly oomKilled: boolean;
  readonly reason: string;
  readonly signal: number;
}

/** How an attached process ended, or that the user left it running. */
export type AttachEnd =
  | { readonly type: "exit" } & AttachedExit
  | { readonly type: "detached" }
  /** Whoever read our output has gone. */
  | { readonly type: "output_closed" };

/** The caller's end of an attachment. */
export interface AttachStreams {
  /** Undefined: no input is sent. */
  readonly stdin: NodeJS.ReadableStream | undefined;
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream;
  /** Sees the input first: what passes on, and whether the user wants to leave the process running. */
  readonly filter?: InputFilter;
}

/** See {@link AttachStreams.filter}. */
export interface InputFilter {
  push(chunk: Uint8Array): { readonly pass: Uint8Array; readonly detach: boolean };
}

/** Output is acknowledged in steps of this size: each message costs the owner a turn, and a quarter of the window keeps the output coming. */
const acknowledgeEveryBytes = stdioWindowBytes / 4;

/**
 * Connects this program's streams with a process: back-pressure goes both ways, so neither a slow
 * reader here nor a process that does not read makes anything grow.
 */
export class AttachClient {
  readonly #inputs = new PushQueue<Input>();
  readonly #outputs: AsyncIterator<AttachOutput>;
  readonly #streams: AttachStreams;
  readonly #exited = Promise.withResolvers<AttachedExit>();
  #sent = 0;
  #taken = 0;
  #roomMade: (() => void) | undefined;
  readonly #leaving = Promise.withResolvers<AttachEnd>();
  readonly #writes = new Map<number, Promise<void>>();
  readonly #acknowledged = new Map<number, number>();

  private constructor(streams: AttachStreams, outputs: AsyncIterable<AttachOutput>, inputs: PushQueue<Input>) {
    this.#streams = streams;
    this.#inputs = inputs;
    this.#outputs = outputs[Symbol.asyncIterator]();
  }

  /** Resolves when the owner has attached us, so that a start after it loses no output. */
  static async open(client: OwnerClient, process: { readonly containerId: string; readonly execId: string }, streams: AttachStreams): Promise<AttachClient> {
    const inputs = new PushQueue<Input>();
    inputs.push({ kind: { case: "open", value: { ...process, stdin: streams.stdin !== undefined, output: true } } });
    const attach = new AttachClient(streams, client.owner.attach(inputs), inputs);
    const opened = await attach.#outputs.next();
    if (opened.done === true || opened.value.kind.case !== "opened") throw new RuntimeError("internal", "attach: the owner did not answer");
    return attach;
  }

  /** Resolves when the process has ended, be its output taken or not; never, when the attachment ends first. */
  get exited(): Promise<AttachedExit> {
    return this.#exited.promise;
  }

  resize(size: { readonly rows: number; readonly columns: number }): void {
    this.#inputs.push({ kind: { case: "resize", value: size } });
  }

  /** Moves bytes until the process has ended or the user has left. */
  async run(): Promise<AttachEnd> {
    if (this.#streams.stdin !== undefined) void this.#sendInput(this.#streams.stdin);
    // A process that prints nothing must not keep a user who wants to leave.
    return Promise.race([this.#follow(), this.#leaving.promise]);
  }

  /** Leaves the process running, as the detach keys do. */
  leave(): void {
    this.#leave({ type: "detached" });
  }

  async #follow(): Promise<AttachEnd> {
    for (let next = await this.#outputs.next(); next.done !== true; next = await this.#outputs.next()) {
      const { kind } = next.value;
      if (kind.case === "output") this.#write(kind.value.fd, Number(kind.value.offset), kind.value.bytes);
      else if (kind.case === "outputEnd") this.#acknowledgeEnd(kind.value.fd, kind.value.offset);
      else if (kind.case === "stdinAck") this.#makeRoom(Number(kind.value.offset));
      else if (kind.case === "exit") {
        const { exitStatus, oomKilled, reason, signal } = kind.value;
        this.#exited.resolve({ exitStatus, oomKilled, reason, signal });
        await Promise.all(this.#writes.values());
        this.#inputs.end();
        return { type: "exit", exitStatus, oomKilled, reason, signal };
      }
    }
    throw new RuntimeError("unavailable", "the owner went away while attached", { reason: "owner_lost" });
  }

  #leave(how: AttachEnd): void {
    this.#leaving.resolve(how);
    this.#inputs.end();
  }

  /** Writes in order per stream without holding up the other stream, and acknowledges what was taken. */
  #write(fd: number, offset: number, bytes: Uint8Array): void {
    const stream = fd === 2 ? this.#streams.stderr : this.#streams.stdout;
    const before = this.#writes.get(fd) ?? Promise.resolve();
    this.#writes.set(fd, before.then(() => new Promise<void>((resolve) => {
      stream.write(bytes, (error) => {
        if (error !== null && error !== undefined) this.#leave({ type: "output_closed" });
        else this.#acknowledge(fd, offset, offset + bytes.length);
        resolve();
      });
    })));
  }

  /** `from`: where the first piece began, which is not 0 for a client that came late. */
  #acknowledge(fd: number, from: number, taken: number): void {
    const before = this.#acknowledged.get(fd) ?? from;
    const due = taken - before >= acknowledgeEveryBytes;
    this.#acknowledged.set(fd, due ? taken : before);
    if (due) this.#inputs.push({ kind: { case: "ack", value: { fd, offset: BigInt(taken) } } });
  }

  /** The exit is announced when all output was taken, so the rest must not wait for a whole step. */
  #acknowledgeEnd(fd: number, offset: bigint): void {
    void (this.#writes.get(fd) ?? Promise.resolve()).then(() => this.#inputs.push({ kind: { case: "ack", value: { fd, offset } } }));
  }

  #makeRoom(taken: number): void {
    this.#taken = taken;
    this.#roomMade?.();
  }

  async #sendInput(stdin: NodeJS.ReadableStream): Promise<void> {
    const { filter } = this.#streams;
    try {
      for await (const chunk of stream(stdin)) {
        const { pass, detach } = filter?.push(chunk) ?? { pass: chunk, detach: false };
        for (let at = 0; at < pass.length; at += stdioPieceBytes) await this.#sendPiece(pass.subarray(at, at + stdioPieceBytes));
        if (detach) return this.#leave({ type: "detached" });
      }
    } catch (error) {
      // A terminal that went away (EIO after a hang-up) is the end of input.
      if (!isErrnoException(error)) throw error;
    }
    this.#inputs.push({ kind: { case: "stdinEnd", value: { fd: 0, offset: BigInt(this.#sent) } } });
  }

  async #sendPiece(bytes: Uint8Array): Promise<void> {
    while (this.#sent + bytes.length - this.#taken > stdioWindowBytes) await new Promise<void>((resolve) => { this.#roomMade = resolve; });
    this.#inputs.push({ kind: { case: "stdin", value: { fd: 0, offset: BigInt(this.#sent), bytes } } });
    this.#sent += bytes.length;
  }
}

async function* stream(input: NodeJS.ReadableStream): AsyncGenerator<Uint8Array> {
  for await (const chunk of input) yield typeof chunk === "string" ? Buffer.from(chunk) : chunk;
}
