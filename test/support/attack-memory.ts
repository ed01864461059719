// node attack-memory.ts PID UID GID FD: what a QEMU that was taken over by its guest would try against the file of its
// memory, as QEMU's user, with QEMU's own descriptor and with one that it opens anew. Prints a line for each attempt.
import { ftruncateSync, openSync, writeSync } from "node:fs";
import { SyscallError, call } from "../../src/shared/linux/libc.ts";

const pidfdOpen = 434, pidfdGetfd = 438;
const FALLOC_FL_PUNCH_HOLE = 3;
const PROT_READ_WRITE = 3, MAP_SHARED = 1;
const F_ADD_SEALS = 1033, F_SEAL_FUTURE_WRITE = 0x10;
const pageBytes = 4096;

const [pid = 0, uid = 0, gid = 0, fd = 0] = process.argv.slice(2).map(Number);
const descriptor = call("long syscall(long, long, long, long)", pidfdGetfd, call("long syscall(long, long, long, long)", pidfdOpen, pid, 0, 0), fd, 0);
process.setgroups?.([]);
process.setgid?.(gid);
process.setuid?.(uid);

attempt("open anew", () => {
  const own = openSync(`/proc/${pid}/fd/${fd}`, "r+");
  attack("opened", own);
});
attack("its own", descriptor);

function attack(whose: string, file: number): void {
  attempt(`${whose}: write`, () => writeSync(file, Buffer.from("x"), 0, 1, pageBytes));
  attempt(`${whose}: punch a hole`, () => call("int fallocate(int, int, long, long)", file, FALLOC_FL_PUNCH_HOLE, 0, pageBytes));
  attempt(`${whose}: truncate`, () => ftruncateSync(file, 0));
  attempt(`${whose}: map`, () => call("long mmap(long, long, int, int, int, long)", 0, pageBytes, PROT_READ_WRITE, MAP_SHARED, file, 0));
  attempt(`${whose}: change the seals`, () => call("int fcntl(int, int, int)", file, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
}

function attempt(name: string, work: () => unknown): void {
  try {
    work();
    console.log(`${name}: done`);
  } catch (error) {
    console.log(`${name}: ${error instanceof SyscallError ? error.code : (error as NodeJS.ErrnoException).code ?? String(error)}`);
  }
}
