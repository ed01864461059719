import { existsSync, watch, writeFileSync } from "node:fs";
import type { EventLog } from "../events.ts";
import { cgroupFile, cgroups, limitContainers, parseAmount, parseFlatKeyed, readIfThere } from "./cgroup-tree.ts";

/** Containers that come this near to what all together may use are slowed down, until the host has given more or has no more to give. */
const headroomBytes = 160 * 1024 * 1024;
/** The kernel tells of every reclaim, which a large page cache brings about too. */
const lookAgainMs = 50;
/** A host plugs memory within a second. One that has not by then has none, and the kernel's own rules are those that hold. */
const patienceMs = 5_000;
/** What the kernel cannot take back without swap. */
const pinnedKinds = ["anon", "shmem", "kernel_stack", "pagetables", "percpu", "slab_unreclaimable"];
/** Below that share of the limit it is the page cache that fills the rest, and taking that back hurts nobody. */
const pinnedShare = 0.75;

/** True when so much of what is used cannot be taken back that more memory is the only help (cgroup-v2, memory.stat). */
export function isShort(memoryStat: string, highBytes: number): boolean {
  return pinnedBytes(memoryStat) >= highBytes * pinnedShare;
}

function pinnedBytes(memoryStat: string): number {
  const stat = parseFlatKeyed(memoryStat);
  return pinnedKinds.reduce((sum, kind) => sum + (stat.get(kind) ?? 0), 0);
}

function readContainersStat(): string {
  return readIfThere(cgroupFile(cgroups.containers, "memory.stat"));
}

/**
 * Tells the host when the containers are about to use all the memory there is. Only while one of them has
 * no limit of its own, since those that have one get what it says.
 */
export class MemoryWatch {
  readonly #events: EventLog;
  #watching = false;
  #open = false;
  /** memory.high now; undefined: none. */
  #highBytes: number | undefined;
  #maxBytes = 0;
  #lookAgain: NodeJS.Timeout | undefined;
  #patience: NodeJS.Timeout | undefined;

  constructor(events: EventLog) {
    this.#events = events;
  }

  /** After containers came or went, their limits changed, or memory did. `open`: one of them has no limit of its own. */
  adjust(open: boolean): void {
    // Whoever uses more than is left when memory was taken away shall get more, and not be killed.
    limitContainers(pinnedBytes(readContainersStat()));
    const maxBytes = Number(parseAmount(readIfThere(cgroupFile(cgroups.containers, "memory.max"))));
    if (maxBytes === this.#maxBytes && open === this.#open) return; // what the host has not helped with before, it will not now
    this.#maxBytes = maxBytes;
    this.#open = open;
    clearTimeout(this.#patience);
    this.#patience = undefined;
    this.#setHigh(open && maxBytes > headroomBytes ? maxBytes - headroomBytes : undefined);
    if (open) this.#watch();
  }

  #watch(): void {
    const file = cgroupFile(cgroups.containers, "memory.events");
    if (this.#watching || !existsSync(file)) return; // without the memory controller nothing is counted
    this.#watching = true;
    // The kernel reports a change of memory.events as a modification of the file.
    watch(file, { persistent: false }, () => { this.#lookAgain ??= setTimeout(() => this.#look(), lookAgainMs).unref(); });
  }

  #look(): void {
    this.#lookAgain = undefined;
    if (this.#highBytes === undefined || this.#patience !== undefined) return;
    if (!isShort(readContainersStat(), this.#highBytes)) return;
    this.#events.append({ case: "memoryShort", value: { limitBytes: BigInt(this.#maxBytes) } });
    this.#patience = setTimeout(() => this.#setHigh(undefined), patienceMs).unref();
  }

  #setHigh(bytes: number | undefined): void {
    const file = cgroupFile(cgroups.containers, "memory.high");
    if (bytes === this.#highBytes || !existsSync(file)) return;
    writeFileSync(file, bytes === undefined ? "max" : String(bytes));
    this.#highBytes = bytes;
  }
}
