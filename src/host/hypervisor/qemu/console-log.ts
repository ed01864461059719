import { closeSync, fstatSync, openSync, renameSync, writeSync } from "node:fs";
import type { Socket } from "node:net";
import { isErrnoException } from "../../../shared/base/errors.ts";
import { connectUnix } from "../../../shared/linux/unix-socket.ts";

/** A guest that floods its console fills two files of this size and no more. */
const maxFileBytes = 512 * 1024;
const tailBytes = 4 * 1024;

/**
 * The guest's serial console, kept on the host in a bounded file. QEMU offers it on a socket, so that
 * it depends on no owner (without a reader QEMU drops it) and no guest can fill a disk.
 */
export class ConsoleLog {
  readonly #path: string;
  readonly #socket: Socket;
  readonly #ended: Promise<void>;
  #fd: number;
  #fileBytes: number;
  #tail: Buffer = Buffer.alloc(0);

  private constructor(path: string, socket: Socket) {
    this.#path = path;
    this.#socket = socket;
    this.#fd = openSync(path, "a", 0o600);
    this.#fileBytes = fstatSync(this.#fd).size;
    socket.on("data", (chunk: Buffer) => this.#append(chunk));
    socket.on("error", () => { /* the end of the VMM; close follows */ });
    this.#ended = new Promise((resolve) => socket.once("close", () => {
      closeSync(this.#fd);
      resolve();
    }));
    socket.on("end", () => socket.destroy());
  }

  static async open(path: string, socketPath: string): Promise<ConsoleLog> {
    return new ConsoleLog(path, await connectUnix(socketPath));
  }

  /** The last output, as text; control characters other than line ends are left out, since this goes to terminals. */
  get tail(): string {
    return this.#tail.toString("latin1").replaceAll("\r", "").replace(/\x1b\[[0-9;?]*[a-zA-Z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "");
  }

  /** Resolves when the VMM has closed the console and everything was read. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  close(): void {
    this.#socket.destroy();
  }

  #append(chunk: Buffer): void {
    this.#tail = Buffer.concat([this.#tail, chunk]).subarray(-tailBytes);
    try {
      if (this.#fileBytes + chunk.length > maxFileBytes) this.#rotate();
      writeSync(this.#fd, chunk);
      this.#fileBytes += chunk.length;
    } catch (error) {
      // A full disk costs lines of the console, not the sandbox; the tail for error messages is in memory.
      if (!isErrnoException(error)) throw error;
    }
  }

  #rotate(): void {
    renameSync(this.#path, `${this.#path}.1`);
    const fd = openSync(this.#path, "w", 0o600);
    closeSync(this.#fd);
    this.#fd = fd;
    this.#fileBytes = 0;
  }
}
