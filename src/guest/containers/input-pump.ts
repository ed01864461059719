import type { Socket } from "node:net";

/** The data port's side of a process's input. */
export interface InputReceiver {
  /** Called once: bytes come in order; `taken` is to be called when they have reached the process's pipe. */
  onBytes(listener: (bytes: Uint8Array, taken: () => void) => void): void;
  /** Called once: no more bytes will come. */
  onEnd(listener: () => void): void;
}

/**
 * Moves a process's input from the data port into its pipe or terminal. Bytes are acknowledged when
 * the kernel has taken them, so what is under way here is bounded by the sender's window.
 */
export class InputPump {
  readonly #stream: Socket;
  readonly #atEnd: "close" | "keep";
  #open = true;

  /** `atEnd`: close the pipe when the input ends; a terminal is kept, because its master carries the output too. */
  constructor(stream: Socket, receiver: InputReceiver, atEnd: "close" | "keep") {
    this.#stream = stream;
    this.#atEnd = atEnd;
    // EPIPE: the process has closed its input. The rest is taken and dropped, as by a closed pipe.
    stream.on("error", () => { this.#open = false; });
    receiver.onBytes((bytes, taken) => this.#write(bytes, taken));
    receiver.onEnd(() => this.end());
  }

  /** End of file for the process, after what was written before. */
  end(): void {
    if (!this.#open || this.#atEnd === "keep") return;
    this.#open = false;
    this.#stream.end();
  }

  /** The process has ended: what comes from now on is dropped. */
  close(): void {
    this.#open = false;
    if (this.#atEnd === "close") this.#stream.destroy();
  }

  #write(bytes: Uint8Array, taken: () => void): void {
    if (!this.#open) {
      taken();
      return;
    }
    this.#stream.write(bytes, () => taken());
  }
}
