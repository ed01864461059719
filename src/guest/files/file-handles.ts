import { close, closeSync } from "node:fs";
import { promisify } from "node:util";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { LanePort } from "../channel/lane-port.ts";

/** A caller that died leaves its handles; they go after that long without use. */
const idleMs = 60_000;
/** What callers work on at once is far less; each costs a descriptor. */
const maxHandles = 256;
const closeAsync = promisify(close);

interface OpenFile {
  readonly containerId: string;
  readonly fd: number;
  /** Carries the bytes of reads and writes that are to go by it. */
  lane: LanePort | undefined;
  timer: NodeJS.Timeout;
}

/** Files of containers that the host has opened and not closed yet. */
export class FileHandles {
  readonly #files = new Map<number, OpenFile>();
  #next = 1;

  /** Takes a descriptor over. @throws RuntimeError `resource_exhausted` (reason `too_many_files`); then it is closed. */
  add(containerId: string, fd: number): number {
    if (this.#files.size >= maxHandles) {
      closeSync(fd);
      throw new RuntimeError("resource_exhausted", `open a file of container "${containerId}": ${maxHandles} are open`, { reason: "too_many_files", hint: "close some first" });
    }
    const handle = this.#next;
    this.#next = this.#next === 0xffff_ffff ? 1 : this.#next + 1;
    this.#files.set(handle, { containerId, fd, lane: undefined, timer: this.#closeLater(handle) });
    return handle;
  }

  /** An open file. @throws RuntimeError `failed_precondition` (reason `file_closed`). */
  use(containerId: string, handle: number): OpenFile {
    const file = this.#files.get(handle);
    if (file === undefined || file.containerId !== containerId) throw new RuntimeError("failed_precondition", `file ${handle} of container "${containerId}" is not open`, { reason: "file_closed" });
    clearTimeout(file.timer);
    file.timer = this.#closeLater(handle);
    return file;
  }

  /** Closed already is success. */
  async close(containerId: string, handle: number): Promise<void> {
    const file = this.#files.get(handle);
    if (file === undefined || file.containerId !== containerId) return;
    this.#files.delete(handle);
    clearTimeout(file.timer);
    await file.lane?.close(); // a move that is under way would go on in whatever file gets the descriptor's number next
    await closeAsync(file.fd);
  }

  /** Closes all of a container, whose file systems could not be unmounted otherwise. */
  async closeAll(containerId: string): Promise<void> {
    for (const [handle, file] of this.#files) if (file.containerId === containerId) await this.close(containerId, handle);
  }

  #closeLater(handle: number): NodeJS.Timeout {
    return setTimeout(() => {
      const file = this.#files.get(handle);
      if (file !== undefined) void this.close(file.containerId, handle).catch(() => { /* it was not used for a minute: nobody waits for its data */ });
    }, idleMs).unref();
  }
}
