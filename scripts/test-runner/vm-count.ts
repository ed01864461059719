import { descendants, reapOrphans } from "./descendants.ts";

const sampleMs = 500;

/**
 * Counts the VMs that tests start and how long they live, by looking: a VM lives for seconds, so
 * looking twice a second misses none, and the program under test needs no part for it. While it looks
 * it also waits for the orphans that this process has adopted.
 */
export class VmCount {
  readonly #seen = new Map<string, { firstMs: number; lastMs: number }>();
  readonly #elsewhere = { count: 0, seconds: 0 };
  readonly #timer: NodeJS.Timeout;

  constructor() {
    this.#timer = setInterval(() => this.#sample(), sampleMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Adds VMs that ran where this process cannot look. */
  add(count: number, seconds: number): void {
    this.#elsewhere.count += count;
    this.#elsewhere.seconds += seconds;
  }

  get count(): number {
    return this.#seen.size + this.#elsewhere.count;
  }

  /** Lifetimes of all VMs added up. */
  get seconds(): number {
    return this.#elsewhere.seconds + [...this.#seen.values()].reduce((sum, { firstMs, lastMs }) => sum + (lastMs - firstMs + sampleMs) / 1000, 0);
  }

  #sample(): void {
    reapOrphans();
    const now = performance.now();
    for (const { pid, startTimeTicks, command } of descendants()) {
      if (!isVm(command)) continue;
      const key = `${pid} ${startTimeTicks}`;
      this.#seen.set(key, { firstMs: this.#seen.get(key)?.firstMs ?? now, lastMs: now });
    }
  }
}

/** QEMU with a machine to run, not `qemu-system-x86_64 --version` or a wrapper that names it. */
export function isVm(command: string): boolean {
  return /^(\S*\/)?qemu-system-\S+ /.test(command) && /\s-(machine|M|kernel|incoming|accel)\s/.test(command);
}
