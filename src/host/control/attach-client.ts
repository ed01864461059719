import type { MessageInitShape } from "@bufbuild/protobuf";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { PushQueue } from "../../shared/base/push-queue.ts";
import type { AttachInputSchema, AttachOutput, AttachPosition } from "../../shared/protocol/gen/owner_pb.ts";
import { isConnectionLost, type OwnerClient } from "./owner-client.ts";
import { SentInput } from "./sent-input.ts";
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

/** A process by its names. */
interface ProcessName { readonly containerId: string; readonly execId: string }

/** Output is acknowledged in steps of this size, and at its end: each message costs the owner a turn, and a quarter of the window keeps the output coming. */
const acknowledgeEveryBytes = stdioWindowBytes / 4;

/** One owner's end of the attachment. */
interface Session {
  readonly inputs: PushQueue<Input>;
  readonly outputs: AsyncIterator<AttachOutput>;
}

/**
 * Connects this program's streams with a process: back-pressure goes both ways, so neither a slow
 * reader here nor a process that does not read makes anything grow. When the owner dies, the next one
 * is asked for what comes after the last byte received, and sent the input that the guest lacks.
 */
export class AttachClient {
  readonly #client: OwnerClient;
  readonly #process: ProcessName;
  readonly #streams: AttachStreams;
  readonly #sentInput = new SentInput();
  #session: Session | undefined;
  #inputEnded = false;
  #size: { readonly rows: number; readonly columns: number } | undefined;
  #roomMade: (() => void) | undefined;
  #left = false;
  readonly #leaving = Promise.withResolvers<AttachEnd>();
  readonly #exited = Promise.withResolvers<AttachedExit>();
  readonly #writes = new Map<number, Promise<void>>();
  /** By descriptor: where the next byte is expected, and what has been acknowledged. */
  readonly #received = new Map<number, number>();
  readonly #acknowledged = new Map<number, number>();

  private constructor(client: OwnerClient, process: ProcessName, streams: AttachStreams) {
    this.#client = client;
    this.#process = process;
    this.#streams = streams;
  }

  /** Resolves when the owner has attached us, so that a start after it loses no output. */
  static async open(client: OwnerClient, process: ProcessName, streams: AttachStreams): Promise<AttachClient> {
    const attach = new AttachClient(client, process, streams);
    await client.call(() => attach.#openSession());
    return attach;
  }

  /** Resolves when the process has ended, be its output taken or not; never, when the attachment ends first. */
  get exited(): Promise<AttachedExit> {
    return this.#exited.promise;
  }

  /** Leaves the process running, as the detach keys do. */
  leave(): void {
    this.#leave({ type: "detached" });
  }

  resize(size: { readonly rows: number; readonly columns: number }): void {
    this.#size = size;
    this.#send({ kind: { case: "resize", value: size } });
  }

  /** Moves bytes until the process has ended or the user has left. @throws RuntimeError `unavailable` (reason `no_owner`) when the sandbox went away without a word. */
  async run(): Promise<AttachEnd> {
    if (this.#streams.stdin !== undefined) void this.#sendInput(this.#streams.stdin);
    // A process that prints nothing must not keep a user who wants to leave.
    return Promise.race([this.#followAll(), this.#leaving.promise]);
  }

  /** Follows one owner after the other. */
  async #followAll(): Promise<AttachEnd> {
    for (;;) {
      const end = await this.#follow();
      if (end !== undefined) return end;
      await this.#client.reconnect();
      await this.#client.call(() => this.#openSession());
    }
  }

  /** Attaches to the present owner: anew, or where the one before it was left. */
  async #openSession(): Promise<void> {
    const inputs = new PushQueue<Input>();
    const resume = this.#session === undefined ? undefined : { stdoutOffset: BigInt(this.#received.get(1) ?? 0), stderrOffset: BigInt(this.#received.get(2) ?? 0) };
    inputs.push({ kind: { case: "open", value: { ...this.#process, stdin: this.#streams.stdin !== undefined, output: true, ...(resume && { resume }) } } });
    const outputs = this.#client.owner.attach(inputs)[Symbol.asyncIterator]();
    const first = await outputs.next();
    if (first.done === true || first.value.kind.case !== "opened") throw new RuntimeError("internal", "attach: the owner did not answer");
    this.#goOn({ inputs, outputs }, first.value.kind.value, resume !== undefined);
  }

  #goOn(session: Session, opened: AttachPosition, resumed: boolean): void {
    this.#session?.inputs.end();
    this.#session = session;
    if (!resumed) {
      for (const [fd, offset] of [[1, opened.stdoutOffset], [2, opened.stderrOffset]] as const) {
        this.#received.set(fd, Number(offset));
        this.#acknowledged.set(fd, Number(offset));
      }
    }
    for (const piece of this.#sentInput.goOnFrom(Number(opened.stdinOffset))) this.#send({ kind: { case: "stdin", value: { fd: 0, offset: BigInt(piece.offset), bytes: piece.bytes } } });
    if (this.#inputEnded) this.#sendInputEnd();
    if (this.#size !== undefined && resumed) this.#send({ kind: { case: "resize", value: this.#size } });
    this.#roomMade?.();
  }

  /** Moves output until the end; undefined: the owner has died. */
  async #follow(): Promise<AttachEnd | undefined> {
    const session = this.#session;
    try {
      for (let next = await session?.outputs.next(); next !== undefined && next.done !== true; next = await session?.outputs.next()) {
        const { kind } = next.value;
        if (kind.case === "output") this.#write(kind.value.fd, Number(kind.value.offset), kind.value.bytes);
        else if (kind.case === "outputEnd") this.#acknowledgeAll(kind.value.fd, Number(kind.value.offset));
        else if (kind.case === "stdinAck") this.#makeRoom(Number(kind.value.offset));
        else if (kind.case === "exit") {
          const { exitStatus, oomKilled, reason, signal } = kind.value;
          this.#exited.resolve({ exitStatus, oomKilled, reason, signal });
          await Promise.all(this.#writes.values());
          session?.inputs.end();
          return { type: "exit", exitStatus, oomKilled, reason, signal };
        }
      }
    } catch (error) {
      if (!this.#left && isConnectionLost(error)) return undefined;
      throw error;
    }
    throw new RuntimeError("unavailable", "the owner ended the attachment", { reason: "owner_lost" });
  }

  #send(input: Input): void {
    this.#session?.inputs.push(input);
  }

  #leave(how: AttachEnd): void {
    this.#left = true;
    this.#leaving.resolve(how);
    this.#session?.inputs.end();
  }

  /** Writes in order per stream without holding up the other stream, and acknowledges what was taken. */
  #write(fd: number, offset: number, bytes: Uint8Array): void {
    const end = offset + bytes.length;
    const received = this.#received.get(fd) ?? 0;
    if (end <= received) return; // had from the owner before
    this.#received.set(fd, end);
    const fresh = offset < received ? bytes.subarray(received - offset) : bytes;
    const stream = fd === 2 ? this.#streams.stderr : this.#streams.stdout;
    this.#afterWrites(fd, () => new Promise<void>((resolve) => {
      stream.write(fresh, (error) => {
        if (error !== null && error !== undefined) this.#leave({ type: "output_closed" });
        else this.#acknowledge(fd, end, acknowledgeEveryBytes);
        resolve();
      });
    }));
  }

  #acknowledgeAll(fd: number, total: number): void {
    this.#afterWrites(fd, () => this.#acknowledge(fd, total, 0));
  }

  #afterWrites(fd: number, step: () => void | Promise<void>): void {
    this.#writes.set(fd, (this.#writes.get(fd) ?? Promise.resolve()).then(step));
  }

  #acknowledge(fd: number, taken: number, stepBytes: number): void {
    if (taken - (this.#acknowledged.get(fd) ?? 0) < stepBytes) return;
    this.#acknowledged.set(fd, taken);
    this.#send({ kind: { case: "ack", value: { fd, offset: BigInt(taken) } } });
  }

  #makeRoom(taken: number): void {
    this.#sentInput.taken(taken);
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
    this.#inputEnded = true;
    this.#sendInputEnd();
  }

  #sendInputEnd(): void {
    this.#send({ kind: { case: "stdinEnd", value: { fd: 0, offset: BigInt(this.#sentInput.end) } } });
  }

  async #sendPiece(bytes: Uint8Array): Promise<void> {
    while (this.#sentInput.keptBytes + bytes.length > stdioWindowBytes) await new Promise<void>((resolve) => { this.#roomMade = resolve; });
    const offset = this.#sentInput.add(bytes);
    this.#send({ kind: { case: "stdin", value: { fd: 0, offset: BigInt(offset), bytes } } });
  }
}

async function* stream(input: NodeJS.ReadableStream): AsyncGenerator<Uint8Array> {
  for await (const chunk of input) yield typeof chunk === "string" ? Buffer.from(chunk) : chunk;
}
