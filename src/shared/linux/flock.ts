import { closeSync, openSync, readFileSync, statSync } from "node:fs";
import { isErrnoException } from "../base/errors.ts";
import { SyscallError, call, errno } from "./libc.ts";

const LOCK_SH = 1, LOCK_EX = 2, LOCK_NB = 4;

/** Takes the lock on a file (made if need be) without waiting; returns the descriptor that holds it, or undefined when somebody else has it. */
export function flockExclusive(path: string): number | undefined {
  const fd = openSync(path, "a", 0o600);
  try {
    call("int flock(int, int)", fd, LOCK_EX | LOCK_NB);
    return fd;
  } catch (error) {
    closeSync(fd);
    if (error instanceof SyscallError && error.errno === errno.EAGAIN) return undefined;
    throw error;
  }
}

/** Joins those who hold the lock on a file (made if need be) together; somebody who has it alone has it for moments only. */
export function flockShared(path: string): number {
  const fd = openSync(path, "a", 0o600);
  try {
    call("int flock(int, int)", fd, LOCK_SH);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** The inode a line of /proc/locks names, as `major:minor:inode` in hexadecimal and decimal; proc(5). */
function lockKey(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
    const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
    const hex = (number: bigint): string => number.toString(16).padStart(2, "0");
    return `${hex(major)}:${hex(minor)}:${ino}`;
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined;
    throw error;
  }
}

/** True while some process holds a flock on the file. Reads /proc/locks only, so that `ps` needs no native code. */
export function isFlocked(path: string): boolean {
  const key = lockKey(path);
  return key !== undefined && readFileSync("/proc/locks", "latin1").split("\n").some((line) => line.includes(" FLOCK ") && line.includes(` ${key} `));
}

