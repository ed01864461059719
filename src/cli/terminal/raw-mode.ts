import type { Writable } from "node:stream";
import { once } from "node:events";
import { orAbandon } from "../../shared/base/deadline.ts";
import { makeTerminalRaw } from "../../shared/linux/raw-terminal.ts";
import { startProcess } from "../../shared/linux/run-process.ts";

/**
 * Restores the terminal after a program that cannot do it itself any more, being killed or crashed: its
 * end of the pipe closes then. Settings that somebody has changed since, such as a shell that has taken
 * its terminal back, are left alone.
 */
const guardScript = `
trap '' HUP INT TERM
saved=$(stty -g <&3) || exit 0
echo ready
read -r line || exit 0
raw=$(stty -g <&3)
read -r line && exit 0
[ "$(stty -g <&3)" != "$raw" ] || stty "$saved" <&3`;
/** A shell starts within milliseconds; a machine too busy for it gets a terminal without guard. */
const guardStartMs = 2_000;
/** How often we look whether our parent still lives. */
const parentPollMs = 250;

/** Makes the terminal on standard input raw. Returns what makes it as it was; that also happens by itself when this program ends, however it ends. */
export async function enterRawMode(): Promise<() => void> {
  const guard = await startGuard();
  const restore = makeTerminalRaw(process.stdin.fd);
  process.on("exit", restore);
  guard?.write("raw\n");
  return () => {
    process.off("exit", restore);
    restore();
    guard?.end("restored\n");
  };
}

/** Calls back when the program that started us has ended. A killed parent tells nobody, and leaves its terminal to us as it is. */
export function watchParent(onEnd: () => void): () => void {
  const parent = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(timer);
    onEnd();
  }, parentPollMs);
  timer.unref();
  return () => clearInterval(timer);
}

/** The guard's end of the pipe; undefined when there can be none, which is no reason to do without a terminal. */
async function startGuard(): Promise<Writable | undefined> {
  try {
    const { child } = await startProcess("/bin/sh", ["-c", guardScript], { stdio: ["pipe", "pipe", "ignore", process.stdin.fd] });
    child.unref();
    const { stdin, stdout } = child;
    if (stdin === null || stdout === null) return undefined;
    stdin.on("error", () => { /* the guard has given up: no stty, or the terminal has gone */ });
    await orAbandon(Promise.race([once(stdout, "data"), once(stdout, "end")]), "start the terminal's guard", { timeoutMs: guardStartMs });
    stdout.destroy();
    return stdin;
  } catch {
    return undefined; // no shell, or it did not start in time
  }
}
