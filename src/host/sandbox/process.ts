import { orAbandon, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { ProcessIo } from "./process-io.ts";

/** How a process of the sandbox ended; kept until it is deleted. */
export interface ProcessEnd {
  /** Exit code, or 128 + signal. */
  readonly exitStatus: number;
  readonly exitedAtUnixNanos: bigint;
  readonly oomKilled: boolean;
  /** The signal that ended it; undefined or 0: none. */
  readonly signal?: number;
  /** Why it ended when that was not its own doing: `vmm_died`, `virtiofsd_died` and their like of docs/errors.md; else empty. */
  readonly reason: string;
}

/** How long the output of a process that has ended may stand still; after it the exit is announced without the rest. */
const drainTimeoutMs = 10_000;

/** One process in the guest: a container's init process (empty execId), an exec, or one of the guest's own (empty containerId). */
export class GuestProcess {
  readonly containerId: string;
  readonly execId: string;
  readonly terminal: boolean;
  readonly io: ProcessIo;
  #state: "created" | "running" | "stopped" = "created";
  #guestPid = 0;
  #end: ProcessEnd | undefined;
  #ending = false;
  readonly #ended = Promise.withResolvers<ProcessEnd>();

  constructor(identity: { readonly containerId: string; readonly execId: string; readonly terminal: boolean }, io: ProcessIo) {
    this.containerId = identity.containerId;
    this.execId = identity.execId;
    this.terminal = identity.terminal;
    this.io = io;
  }

  /** A process from the time of an earlier owner. */
  static restore(identity: ConstructorParameters<typeof GuestProcess>[0], io: ProcessIo, was: { readonly started: boolean; readonly guestPid: number; readonly end: ProcessEnd | undefined }): GuestProcess {
    const process = new GuestProcess(identity, io);
    process.#guestPid = was.guestPid;
    if (was.started) process.#state = "running";
    if (was.end !== undefined) process.#ends(was.end);
    return process;
  }

  get state(): "created" | "running" | "stopped" { return this.#state; }
  get guestPid(): number { return this.#guestPid; }
  get end(): ProcessEnd | undefined { return this.#end; }
  get stdin(): boolean { return this.io.hasStdin; }

  /** The guest has the process; it runs, or for an init process waits for start. */
  created(guestPid: number): void {
    this.#guestPid = guestPid;
  }

  running(): void {
    if (this.#state === "created") this.#state = "running";
  }

  /**
   * Takes the end. It is announced to waiters only when all output has been delivered, or when that
   * takes too long, and after `record` has put it on disk. Later calls change nothing, but one whose end
   * was not the process's own, such as the VM's, ends the wait for output. True: this was the first call.
   */
  async finish(end: ProcessEnd, record: (end: ProcessEnd) => void = () => undefined): Promise<boolean> {
    if (this.#ending) {
      if (end.reason !== "") await this.io.close();
      await this.#ended.promise;
      return false;
    }
    this.#ending = true;
    if (end.reason === "") await this.#drain();
    await this.io.close();
    record(end);
    this.#ends(end);
    return true;
  }

  #ends(end: ProcessEnd): void {
    this.#ending = true;
    this.#state = "stopped";
    this.#end = end;
    this.#ended.resolve(end);
  }

  /** A guest that does not deliver what it announced, or a client that takes nothing, does not hold the waiters for long. */
  async #drain(): Promise<void> {
    for (let before = -1; before !== this.io.progress;) {
      before = this.io.progress;
      if (await settledWithin(this.io.drained, drainTimeoutMs)) return;
    }
  }

  /** Resolves with the end, before or after it happened, for any number of callers. */
  async wait(options: WaitOptions = {}): Promise<ProcessEnd> {
    return orAbandon(this.#ended.promise, `wait for process "${this.execId === "" ? this.containerId : this.execId}"`, options);
  }

  /** @throws RuntimeError `failed_precondition` before the start, `not_found` (reason `process_finished`) after the end. */
  requireRunning(operation: string): void {
    if (this.#state === "created" && this.execId !== "") throw new RuntimeError("failed_precondition", `${operation}: process "${this.execId}" is not started`, { reason: "process_not_started" });
    if (this.#state === "stopped") throw new RuntimeError("not_found", `${operation}: process already finished`, { reason: "process_finished" });
  }
}

/** True when the promise settled within the time. */
async function settledWithin(work: Promise<void>, timeoutMs: number): Promise<boolean> {
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => late.resolve(false), timeoutMs);
  try {
    return await Promise.race([work.then(() => true), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
