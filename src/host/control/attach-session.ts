import type { MessageInitShape } from "@bufbuild/protobuf";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import { PushQueue } from "../../shared/base/push-queue.ts";
import type { Logger } from "../../shared/base/log.ts";
import type { AttachInput, AttachOutputSchema } from "../../shared/protocol/gen/casemate_pb.ts";
import type { GuestProcess } from "../sandbox/process.ts";
import type { Attachment } from "../sandbox/process-io.ts";
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
  const attachment = open.output ? process.io.attach({
    output: (fd, offset, bytes) => queue.push({ kind: { case: "output", value: { fd, offset: BigInt(offset), bytes } } }),
    outputEnd: (fd, offset) => queue.push({ kind: { case: "outputEnd", value: { fd, offset: BigInt(offset) } } }),
  }) : undefined;
  queue.push({ kind: { case: "opened", value: {} } });
  void pumpInput(iterator, process, attachment, queue, target).catch((error: unknown) => {
    log.debug("attached client's input ended", { error: describeError(error) });
    queue.end(); // a client that breaks the protocol or is gone
  });
  void process.wait().then((end) => {
    queue.push({ kind: { case: "exit", value: { exitStatus: end.exitStatus, exitedAtUnixNanos: end.exitedAtUnixNanos, oomKilled: end.oomKilled, reason: end.reason } } });
    queue.end();
  });
  try {
    yield* queue;
  } finally {
    attachment?.detach();
  }
}

/** Handles what the client sends until it stops sending. The end of its messages is a detach of its input only. */
async function pumpInput(iterator: AsyncIterator<AttachInput>, process: GuestProcess, attachment: Attachment | undefined, queue: PushQueue<OutputInit>, target: AttachTarget): Promise<void> {
  const stdin = new StdinPump(process, (offset) => queue.push({ kind: { case: "stdinAck", value: { fd: 0, offset } } }));
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
        await target.resize(process, kind.value);
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
 * comes on the same stream as the input.
 */
class StdinPump {
  readonly #process: GuestProcess;
  readonly #acknowledge: (offset: bigint) => void;
  #received = 0n;
  #taken = 0n;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(process: GuestProcess, acknowledge: (offset: bigint) => void) {
    this.#process = process;
    this.#acknowledge = acknowledge;
  }

  /** @throws RuntimeError `invalid_argument` when the client left a gap or sent more than its window. */
  push(offset: bigint, bytes: Uint8Array): void {
    const end = offset + BigInt(bytes.length);
    if (offset !== this.#received || end - this.#taken > BigInt(stdioWindowBytes)) throw new RuntimeError("invalid_argument", `attach: stdin at offset ${offset}, expected ${this.#received}, at most ${stdioWindowBytes} bytes ahead of ${this.#taken}`);
    this.#received = end;
    this.#tail = this.#tail.then(async () => {
      await this.#process.io.writeStdin(bytes);
      this.#taken = end;
      this.#acknowledge(end);
    });
  }

  end(): void {
    this.#tail = this.#tail.then(() => this.#process.io.endStdin());
  }
}
