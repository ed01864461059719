import { readFileSync, readdirSync } from "node:fs";
import { isErrnoException } from "../../src/shared/base/errors.ts";
import { call, callUnchecked } from "../../src/shared/linux/libc.ts";
import { isOwnChild } from "../../src/shared/linux/own-children.ts";
import { type ProcessIdentity, isAlive, readProcStat, signalProcess } from "../../src/shared/linux/proc.ts";

/** A process started, directly or not, by this one. */
export interface Descendant extends ProcessIdentity {
  readonly command: string;
}

const prSetChildSubreaper = 36;
const wnohang = 1;

/**
 * From now on every process that the tests start stays below this one, even when it detaches: that is
 * how leftovers are found without trusting what the tests know of their own processes.
 */
export function adoptOrphans(): void {
  call("int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long)", prSetChildSubreaper, 1, 0, 0, 0);
}

/** Live processes below this one, parents before children. */
export function descendants(): Descendant[] {
  const children = new Map<number, Descendant[]>();
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    const stat = Number.isInteger(pid) ? readProcStat(pid) : undefined;
    if (stat === undefined || stat.state === "Z") continue;
    children.set(stat.parentPid, [...children.get(stat.parentPid) ?? [], { pid, startTimeTicks: stat.startTimeTicks, command: commandOf(pid) }]);
  }
  const found: Descendant[] = [];
  for (let generation = children.get(process.pid) ?? []; generation.length > 0;) {
    found.push(...generation);
    generation = generation.flatMap((parent) => children.get(parent.pid) ?? []);
  }
  return found;
}

/** Ends everything below this process and says what it was. */
export async function endDescendants(): Promise<string[]> {
  const seen = new Map<number, string>();
  // Again and again: a supervisor starts its child anew until it is gone itself.
  for (let left = descendants(); left.length > 0; left = descendants()) {
    for (const one of left) {
      seen.set(one.pid, one.command);
      if (isAlive(one)) signalProcess(one, "SIGKILL");
    }
    await new Promise((next) => setTimeout(next, 20));
  }
  return [...seen].map(([pid, command]) => `${pid} ${command}`);
}

/**
 * Waits for zombies that became ours by adoption. Only where every child of our own was started by
 * run-process.ts: the status of any other one would be taken from Node, which then waits for ever.
 */
export function reapOrphans(): void {
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    const stat = Number.isInteger(pid) ? readProcStat(pid) : undefined;
    if (stat?.state === "Z" && stat.parentPid === process.pid && !isOwnChild(pid)) callUnchecked("int waitpid(int, void *, int)", pid, null, wnohang);
  }
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "ESRCH")) return "";
    throw error;
  }
}
