import { RuntimeError } from "../base/errors.ts";

/** Most messages, and most bytes of them, that wait for a reader of one stream. */
const maxQueuedMessages = 1024;
const maxQueuedBytes = 8 * 1024 * 1024;

/**
 * Messages of one incoming stream until their reader takes them. ttRPC has no window, so a reader that
 * does not read would make this grow without end: past the limit the stream fails, the connection does not.
 */
export class MessageQueue implements AsyncIterable<Uint8Array> {
  #messages: Uint8Array[] = [];
  #bytes = 0;
  #end: { readonly error: RuntimeError | undefined } | undefined;
  #wake: (() => void) | undefined;

  /** False when the message did not fit and the stream has failed. */
  push(message: Uint8Array): boolean {
    if (this.#end !== undefined) return true;
    if (this.#messages.length >= maxQueuedMessages || this.#bytes + message.length > maxQueuedBytes) {
      this.end(new RuntimeError("resource_exhausted", `more than ${maxQueuedMessages} messages or ${maxQueuedBytes} bytes wait for their reader`));
      return false;
    }
    this.#messages.push(message);
    this.#bytes += message.length;
    this.#wake?.();
    return true;
  }

  /** No more messages; what is queued is still read, then the error is thrown if there is one. */
  end(error?: RuntimeError): void {
    this.#end ??= { error };
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      const message = this.#messages.shift();
      if (message !== undefined) {
        this.#bytes -= message.length;
        yield message;
      } else if (this.#end !== undefined) {
        if (this.#end.error !== undefined) throw this.#end.error;
        return;
      } else {
        await new Promise<void>((resolve) => { this.#wake = resolve; });
      }
    }
  }
}
