import type { StdioMux, StreamReceiver, StreamSender } from "../../shared/channel/stdio-mux.ts";
import type { InputReceiver } from "./input-pump.ts";
import type { OutputSender } from "./output-pump.ts";

/** How far the streams of a process have come, in bytes: output that the host has for good, input that has arrived here. */
export interface StdioPositions {
  readonly stdoutAcknowledged: bigint;
  readonly stderrAcknowledged: bigint;
  readonly stdinReceived: bigint;
}

/** The data port, as far as a process's stdio uses it. */
export interface StdioPort {
  openOutput(streamId: number, fd: 1 | 2): OutputSender;
  openInput(streamId: number): InputReceiver;
  positions(streamId: number): StdioPositions;
  /** The process takes no more input. */
  closeInput(streamId: number): void;
  /** The host has all it wants of this process's output: what it has not taken is dropped. */
  forget(streamId: number): void;
}

/** Stdio over the data port's streams. A stream that has ended is kept until it is forgotten, so that a host that reconnects still finds its end. */
export class MuxStdioPort implements StdioPort {
  readonly #mux: StdioMux;
  readonly #senders = new Map<number, StreamSender[]>();
  readonly #receivers = new Map<number, StreamReceiver>();

  constructor(mux: StdioMux) {
    this.#mux = mux;
  }

  openOutput(streamId: number, fd: 1 | 2): OutputSender {
    const sender = this.#mux.openSender(streamId, fd);
    this.#senders.set(streamId, [...this.#senders.get(streamId) ?? [], sender]);
    let onRoom: () => void = () => undefined;
    return {
      send: (bytes) => {
        const room = sender.write(bytes);
        if (sender.hasRoom) return true;
        void room.then(() => onRoom()); // a sender's write never fails
        return false;
      },
      onRoom: (listener) => { onRoom = listener; },
      end: () => sender.end(),
    };
  }

  openInput(streamId: number): InputReceiver {
    let onBytes: (bytes: Uint8Array, taken: () => void) => void = (_bytes, taken) => taken();
    let onEnd: () => void = () => undefined;
    const receiver = this.#mux.openReceiver(streamId, 0, {
      onBytes: (offset, bytes) => onBytes(bytes, () => receiver.acknowledge(offset + bytes.length)),
      onEnd: () => onEnd(),
    });
    this.#receivers.set(streamId, receiver);
    return { onBytes: (listener) => { onBytes = listener; }, onEnd: (listener) => { onEnd = listener; } };
  }

  positions(streamId: number): StdioPositions {
    const [stdout, stderr] = this.#senders.get(streamId) ?? [];
    return {
      stdoutAcknowledged: BigInt(stdout?.acknowledged ?? 0),
      stderrAcknowledged: BigInt(stderr?.acknowledged ?? 0),
      stdinReceived: BigInt(this.#receivers.get(streamId)?.received ?? 0),
    };
  }

  closeInput(streamId: number): void {
    this.#receivers.get(streamId)?.close();
    this.#receivers.delete(streamId);
  }

  forget(streamId: number): void {
    this.closeInput(streamId);
    for (const sender of this.#senders.get(streamId) ?? []) sender.close();
    this.#senders.delete(streamId);
  }
}
