import { create } from "@bufbuild/protobuf";
import { RuntimeError } from "../../shared/base/errors.ts";
import { isErrnoException } from "../../shared/base/errors.ts";
import { ExitSchema, type Exit } from "../../shared/protocol/gen/casemate_pb.ts";
import { oomKillCount } from "../cgroup/oom-watch.ts";
import type { EventLog } from "../events.ts";
import type { ProcessStatus } from "../reaper.ts";
import type { ContainerName } from "./container.ts";
import { readLog } from "./crun.ts";
import { saysNotRunnable } from "./crun-errors.ts";
import type { ProcessStdio } from "./process-stdio.ts";

/** Whose process it is and where it runs. */
export interface ProcessOrigin {
  /** Undefined: the guest itself. */
  readonly container: ContainerName | undefined;
  /** Empty: the container's first process. */
  readonly execId: string;
  readonly cgroup: string;
  /** What crun, and the process until its program ran, wrote; undefined for a process of the guest itself. */
  readonly logFile: string | undefined;
}

/** docker's exit code for a program that the kernel refuses to run. */
const notRunnableStatus = 126;

/** A process that the agent started, from its start until the host has acknowledged its end. */
export class GuestProcess {
  readonly origin: ProcessOrigin;
  readonly pid: number;
  readonly stdio: ProcessStdio;
  /** Resolves when the process has ended and its output is complete. */
  readonly ended: Promise<Exit>;
  readonly #oomKillsBefore: number;
  #reaped = false;
  #exit: Exit | undefined;
  #exitSequence: bigint | undefined;

  constructor(origin: ProcessOrigin, pid: number, stdio: ProcessStdio, status: Promise<ProcessStatus>, events: EventLog, oomKillsBefore: number) {
    this.origin = origin;
    this.pid = pid;
    this.stdio = stdio;
    this.#oomKillsBefore = oomKillsBefore;
    this.ended = this.#collect(status, events);
  }

  /** Empty: the guest itself. */
  get containerId(): string { return this.origin.container?.containerId ?? ""; }
  /** Set when the process has ended and its output is complete. */
  get exit(): Exit | undefined { return this.#exit; }
  /** True from the moment the process is gone; its output may still be under way. */
  get reaped(): boolean { return this.#reaped; }

  /** True when the host has acknowledged the end. */
  isForgettable(acknowledged: bigint): boolean {
    return this.#exitSequence !== undefined && this.#exitSequence <= acknowledged;
  }

  /** Sends a signal to this process alone. One that has ended is left in peace: its pid may belong to another by now. */
  signal(signal: number): void {
    if (this.#reaped) return;
    try {
      process.kill(this.pid, signal);
    } catch (error) {
      if (isErrnoException(error, "EINVAL")) throw new RuntimeError("invalid_argument", `send signal ${signal} to process ${this.pid}: no such signal`, { cause: error });
      // ESRCH: a zombie of ours answers success, so the process is really gone; its exit is on its way.
      if (!isErrnoException(error, "ESRCH")) throw RuntimeError.wrap(error, `send signal ${signal} to process ${this.pid}`);
    }
  }

  async #collect(status: Promise<ProcessStatus>, events: EventLog): Promise<Exit> {
    const end = await status;
    this.#reaped = true;
    const oomKilled = oomKillCount(this.origin.cgroup) > this.#oomKillsBefore;
    const { stdoutBytes, stderrBytes } = await this.stdio.drain();
    const { execId, logFile } = this.origin;
    const notRunnable = logFile !== undefined && end.signal === 0 && end.exitStatus !== 0 && saysNotRunnable(readLog(logFile));
    this.#exit = create(ExitSchema, {
      containerId: this.containerId, execId,
      exitStatus: notRunnable ? notRunnableStatus : end.exitStatus,
      signal: end.signal,
      exitedAtUnixNanos: end.exitedAtUnixNanos,
      stdoutBytes: BigInt(stdoutBytes), stderrBytes: BigInt(stderrBytes),
      oomKilled,
    });
    this.#exitSequence = events.append({ case: "exit", value: this.#exit }).sequence;
    return this.#exit;
  }
}
