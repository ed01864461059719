import type { MessageInitShape } from "@bufbuild/protobuf";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import { PushQueue } from "../../shared/base/push-queue.ts";
import type { Logger } from "../../shared/base/log.ts";
import type { AttachInput, AttachOpen, AttachOutputSchema } from "../../shared/protocol/gen/owner_pb.ts";
import type { GuestProcess } from "../sandbox/process.ts";
import type { Attachment, OutputFd, ProcessIo } from "../sandbox/process-io.ts";
import { stdioWindowBytes } from "./stdio-limits.ts";

type OutputInit = MessageInitShape<typeof AttachOutputSchema>;

/** What an attach session asks of the sandbox. */
export interface AttachTarget {
  process(containerId: string, execId: string): GuestProcess;
  resize(process: GuestProcess, size: { readonly rows: number; readonly columns: number }): Promise<void>;
}

/**
 * One attached client: its input goes to the process, the process's output and end go to it. The
 * client acknowledges output, so what waits here is bounded by the guest's window.
 */
export async function* attachSession(inputs: AsyncIterable<AttachInput>, target: AttachTarget, log: Logger): AsyncGenerator<OutputInit> {
  const iterator = inputs[Symbol.asyncIterator]();
  const first = await iterator.next();
  if (first.done === true || first.value.kind.case !== "open") throw new RuntimeError("invalid_argument", "attach: the first message must be `open`");
  const open = first.value.kind.value;
  const process = target.process(open.containerId, open.execId);
  const queue = new PushQueue<OutputInit>();
  const attachment = open.output ? attachOutput(process.io, open, queue) : undefined;
  const stdin = new StdinPump(process.io, (offset) => queue.push({ kind: { case: "stdinAck", value: { fd: 0, offset } } }));
  void pumpInput(iterator, process, attachment, stdin, target, log).catch((error: unknown) => {
    log.debug("attached client's input ended", { error: describeError(error) });
    queue.end(); // a client that breaks the protocol or is gone
  });
  void process.wait().then(async (end) => {
    await attachment?.level;
    queue.push({ kind: { case: "exit", value: { exitStatus: end.exitStatus, exitedAtUnixNanos: end.exitedAtUnixNanos, oomKilled: end.oomKilled, reason: end.reason, signal: end.signal ?? 0 } } });
    queue.end();
  });
  try {
    // First of all: the client counts its bytes from there.
    yield { kind: { case: "opened", value: { stdoutOffset: BigInt(attachment?.from.get(1) ?? 0), stderrOffset: BigInt(attachment?.from.get(2) ?? 0), stdinOffset: stdin.base } } };
    yield* queue;
  } finally {
    stdin.close();
    attachment?.detach();
  }
}

function attachOutput(io: ProcessIo, { resume }: AttachOpen, queue: PushQueue<OutputInit>): Attachment {
  return io.attach({
    output: (fd, offset, bytes) => queue.push({ kind: { case: "output", value: { fd, offset: BigInt(offset), bytes } } }),
    outputEnd: (fd, offset) => queue.push({ kind: { case: "outputEnd", value: { fd, offset: BigInt(offset) } } }),
  }, resume && new Map<OutputFd, number>([[1, Number(resume.stdoutOffset)], [2, Number(resume.stderrOffset)]]));
}

/** Handles what the client sends until it stops sending. The end of its messages is a detach of its input only. */
async function pumpInput(iterator: AsyncIterator<AttachInput>, process: GuestProcess, attachment: Attachment | undefined, stdin: StdinPump, target: AttachTarget, log: Logger): Promise<void> {
  for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) {
    const { kind } = next.value;
    switch (kind.case) {
      case "ack": {
        const { fd } = kind.value;
        if (fd === 1 || fd === 2) attachment?.acknowledge(fd, Number(kind.value.offset));
        break;
      }
      case "stdin":
        stdin.push(kind.value.offset, kind.value.bytes);
        break;
      case "stdinEnd":
        stdin.end();
        break;
      case "resize":
        // A process that is not started yet, or has just ended, has no terminal to resize; that ends no session.
        await target.resize(process, kind.value).catch((error: unknown) => log.debug("terminal not resized", { error: describeError(error) }));
        break;
      case "open":
      case undefined:
        throw new RuntimeError("invalid_argument", `attach: unexpected message "${kind.case ?? "empty"}"`);
    }
  }
}

/**
 * Hands a client's input to the process in order. It never holds up the client's other messages: a
 * process that waits for its output to be taken does not read, and the acknowledgement it waits for
 * comes on the same stream as the input. Acknowledged is what the guest has taken, so that a client
 * whose owner dies knows what to send again.
 */
class StdinPump {
  /** Position in the process's input where this client's begins. */
  readonly base: bigint;
  readonly #io: ProcessIo;
  readonly #acknowledge: (offset: bigint) => void;
  readonly #stop: () => void;
  /** Pieces on their way to the guest: their end in the process's input, and in the client's count. */
  #underWay: { readonly position: number; readonly end: bigint }[] = [];
  #received: bigint;
  #taken: bigint;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(io: ProcessIo, acknowledge: (offset: bigint) => void) {
    this.#io = io;
    this.#acknowledge = acknowledge;
    this.base = this.#received = this.#taken = BigInt(io.stdinOffset);
    this.#stop = io.onStdinTaken((offset) => this.#takenUpTo(offset));
  }

  /** @throws RuntimeError `invalid_argument` when the client left a gap or sent more than its window. */
  push(offset: bigint, bytes: Uint8Array): void {
    const end = offset + BigInt(bytes.length);
    if (offset !== this.#received || end - this.#taken > BigInt(stdioWindowBytes)) throw new RuntimeError("invalid_argument", `attach: stdin at offset ${offset}, expected ${this.#received}, at most ${stdioWindowBytes} bytes ahead of ${this.#taken}`);
    this.#received = end;
    this.#tail = this.#tail.then(async () => {
      if (!this.#io.hasStdin) return this.#advance(end);
      this.#underWay.push({ position: this.#io.stdinOffset + bytes.length, end });
      await this.#io.writeStdin(bytes);
    });
  }

  end(): void {
    this.#tail = this.#tail.then(() => this.#io.endStdin());
  }

  close(): void {
    this.#stop();
  }

  #takenUpTo(offset: number): void {
    const taken = this.#underWay.filter(({ position }) => position <= offset).at(-1);
    this.#underWay = this.#underWay.filter(({ position }) => position > offset);
    if (taken !== undefined) this.#advance(taken.end);
  }

  #advance(end: bigint): void {
    this.#taken = end;
    this.#acknowledge(end);
  }
}
