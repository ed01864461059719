import type { ChildProcess } from "node:child_process";

/**
 * The children that Node itself waits for. PID 1 in the guest reaps everything else and must leave
 * these alone: a status taken by waitpid elsewhere never reaches the ChildProcess.
 */
const pids = new Set<number>();
let onReaped: (() => void) | undefined;

/** Call in the same turn as spawn, before any SIGCHLD can be handled. */
export function trackOwnChild(child: ChildProcess): void {
  const { pid } = child;
  if (pid === undefined) return; // the spawn failed; libuv has waited for the attempt itself
  pids.add(pid);
  child.once("exit", () => {
    pids.delete(pid);
    onReaped?.();
  });
}

/** True while Node will wait for that pid. */
export function isOwnChild(pid: number): boolean {
  return pids.has(pid);
}

/** The one listener told after Node has reaped a child. */
export function setOwnChildReapedListener(listener: () => void): void {
  onReaped = listener;
}
