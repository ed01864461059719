import { call } from "./libc.ts";
import { pollableStream } from "./pollable-stream.ts";
import { isAlive, type ProcessIdentity } from "./proc.ts";
import type { ProcessExit } from "./run-process.ts";

/** pidfd_open(2), the same number on every architecture. */
const SYS_pidfd_open = 434;
/** The end of a process that is nobody's child of ours: only its parent learns how. */
const unknownExit: ProcessExit = { exitCode: undefined, signal: undefined };

/**
 * Waits for the end of a process that need not be our child. Resolves at once when it is gone already;
 * never rejects. How it ended is not known.
 */
export async function watchProcess(identity: ProcessIdentity): Promise<ProcessExit> {
  let pidFd: number;
  try {
    pidFd = Number(call("long syscall(long, int, int)", SYS_pidfd_open, identity.pid, 0));
  } catch {
    return unknownExit; // ESRCH
  }
  // A pidfd is readable when its process has ended, and can only be polled: the read fails, which is the news.
  const stream = pollableStream(pidFd);
  const ended = new Promise<void>((resolve) => stream.once("close", () => resolve()));
  stream.on("error", () => { /* close follows */ });
  stream.resume();
  // Looked at after the descriptor is held: the pid may have been given to another before.
  if (!isAlive(identity)) stream.destroy();
  await ended;
  return unknownExit;
}
