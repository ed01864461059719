import { SyscallError, call } from "./libc.ts";

/** Large enough for glibc's struct termios (60 bytes) on every CPU. */
const termiosBytes = 128;
const TCSANOW = 0;

/**
 * Makes a terminal raw as cfmakeraw(3) does: every key comes as it is and every byte is shown as it is.
 * (Node's own raw mode still turns a line feed into two characters, which full-screen programs do not
 * expect.) Returns what makes the terminal as it was.
 * @throws SyscallError `ENOTTY` when it is no terminal.
 */
export function makeTerminalRaw(fd: number): () => void {
  const saved = Buffer.alloc(termiosBytes);
  call("int tcgetattr(int, void *)", fd, saved);
  const raw = Buffer.from(saved);
  call("void cfmakeraw(void *)", raw);
  call("int tcsetattr(int, int, const void *)", fd, TCSANOW, raw);
  return () => {
    if (!inForeground(fd)) return;
    call("int tcsetattr(int, int, const void *)", fd, TCSANOW, saved);
  };
}

/** False when a shell has taken its terminal back, or the terminal has been hung up: its settings are not ours to change then, and trying would stop us. */
function inForeground(fd: number): boolean {
  try {
    return call("int tcgetpgrp(int)", fd) === call("int getpgrp()");
  } catch (error) {
    if (error instanceof SyscallError) return false;
    throw error;
  }
}
