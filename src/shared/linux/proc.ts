import { readFileSync } from "node:fs";
import { isErrnoException } from "../base/errors.ts";

/** A process, told apart from a later one with the same pid by its start time. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks after boot (proc(5)). */
  readonly startTimeTicks: number;
}

/** Fields of /proc/PID/stat that we use. */
export interface ProcStat {
  /** Field 3, e.g. `R`, `S`, `Z`. */
  readonly state: string;
  readonly parentPid: number;
  readonly startTimeTicks: number;
}

/** Parses /proc/PID/stat; the command may hold spaces and parentheses, so fields count from the last `)`. */
export function parseProcStat(text: string): ProcStat {
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "?", parentPid: Number(fields[1]), startTimeTicks: Number(fields[19]) };
}

/** Reads /proc/PID/stat; undefined when there is no such process. */
export function readProcStat(pid: number): ProcStat | undefined {
  try {
    return parseProcStat(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "ESRCH")) return undefined;
    throw error;
  }
}

/** The identity of a live process; undefined when it is gone or a zombie. */
export function identifyProcess(pid: number): ProcessIdentity | undefined {
  const stat = readProcStat(pid);
  return stat === undefined || stat.state === "Z" || stat.state === "X" ? undefined : { pid, startTimeTicks: stat.startTimeTicks };
}

/** True while exactly this process runs (a zombie does not). */
export function isAlive(identity: ProcessIdentity): boolean {
  return identifyProcess(identity.pid)?.startTimeTicks === identity.startTimeTicks;
}

/** Sends a signal to exactly this process. False when it is gone already. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals | 0): boolean {
  if (!isAlive(identity)) return false;
  try {
    process.kill(identity.pid, signal);
    return true;
  } catch (error) {
    if (isErrnoException(error, "ESRCH")) return false;
    throw error;
  }
}
