import { call, callUnchecked } from "../shared/linux/libc.ts";
import { isOwnChild, setOwnChildReapedListener } from "../shared/linux/own-children.ts";

/** How a process ended. */
export interface ProcessStatus {
  /** Exit code, or 128 + signal. */
  readonly exitStatus: number;
  /** 0 unless a signal ended it. */
  readonly signal: number;
  readonly exitedAtUnixNanos: bigint;
}

const P_ALL = 0, WNOHANG = 1, WEXITED = 4, WNOWAIT = 0x01000000;
/** siginfo_t is 128 bytes; si_pid of SIGCHLD is at 16 on 64-bit Linux. */
const siginfoBytes = 128, siginfoPidOffset = 16;

/**
 * Waits for the processes that are ours only as PID 1: what crun leaves behind (it ends after having
 * started a process, which the kernel then gives to us) and orphans. Children that Node started are
 * left to Node.
 */
export class Reaper {
  readonly #waiters = new Map<number, (status: ProcessStatus) => void>();
  /** Ends seen while some start is under way and nobody has asked for the pid yet. */
  readonly #unclaimed = new Map<number, ProcessStatus>();
  #startsUnderWay = 0;

  /** Installs the SIGCHLD handler. Once, at start-up. */
  start(): void {
    process.on("SIGCHLD", () => this.#sweep());
    // While the first zombie in line is Node's, those behind it cannot be seen.
    setOwnChildReapedListener(() => setImmediate(() => this.#sweep()));
    this.#sweep();
  }

  /**
   * Keeps the ends of unknown processes while `start` runs, so that a process that ends before its
   * pid is known is not lost; `start` claims its pid with {@link claim} before it returns.
   */
  async whileStarting<T>(start: () => Promise<T>): Promise<T> {
    this.#startsUnderWay++;
    try {
      return await start();
    } finally {
      this.#startsUnderWay--;
      if (this.#startsUnderWay === 0) this.#unclaimed.clear();
    }
  }

  /** The end of a process that crun started. Call inside {@link whileStarting}. */
  claim(pid: number): Promise<ProcessStatus> {
    const early = this.#unclaimed.get(pid);
    this.#unclaimed.delete(pid);
    if (early !== undefined) return Promise.resolve(early);
    return new Promise((resolve) => this.#waiters.set(pid, resolve));
  }

  #sweep(): void {
    for (;;) {
      const siginfo = Buffer.alloc(siginfoBytes);
      // ECHILD: no children at all.
      if (callUnchecked("int waitid(int, unsigned int, void *, int)", P_ALL, 0, siginfo, WEXITED | WNOHANG | WNOWAIT) !== 0) return;
      const pid = siginfo.readInt32LE(siginfoPidOffset);
      if (pid === 0 || isOwnChild(pid)) return;
      this.#reap(pid);
    }
  }

  #reap(pid: number): void {
    const status = Buffer.alloc(4);
    call("int waitpid(int, void *, int)", pid, status, WNOHANG);
    const end = decodeWaitStatus(status.readInt32LE(0), BigInt(Date.now()) * 1_000_000n);
    const waiter = this.#waiters.get(pid);
    this.#waiters.delete(pid);
    if (waiter !== undefined) waiter(end);
    else if (this.#startsUnderWay > 0) this.#unclaimed.set(pid, end);
  }
}

/** Decodes waitpid's status word (wait(2): low 7 bits are the signal, the next byte the exit code). */
export function decodeWaitStatus(word: number, exitedAtUnixNanos: bigint): ProcessStatus {
  const signal = word & 0x7f;
  return { exitStatus: signal === 0 ? (word >> 8) & 0xff : 128 + signal, signal, exitedAtUnixNanos };
}
