import { closeSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Deadline } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import type { StateFolders } from "../store/paths.ts";

/** A start that hangs keeps its place up to its own time limit; who is the next waits for this long, and goes without one. */
const defaultPatienceMs = 10_000;
/** Times one more than those who are ahead, whose starts take longer than that. */
const pollMs = 25, manyAhead = 40;

/**
 * One of as many places as the machine has CPUs, in which the sandboxes of one user come up, in the order of their coming.
 * A start is work for a whole CPU, and those that share one take longer together than one after the other. Places
 * (`place-N`) and turns (`turn-TIME`) are locks: a death gives them back.
 */
export class StartPlace {
  #fd: number | undefined;

  private constructor(fd: number | undefined) {
    this.#fd = fd;
  }

  /** Waits for a place; at once when one is free and nobody waits. @throws RuntimeError `canceled`. */
  static async take(folders: StateFolders, signal: AbortSignal, patienceMs = defaultPatienceMs): Promise<StartPlace> {
    const folder = join(folders.run, "starts");
    mkdirSync(folder, { recursive: true, mode: 0o711 });
    const free = readTurns(folder).length === 0 ? lockPlace(folder) : undefined;
    return new StartPlace(free ?? await awaitTurn(folder, signal, patienceMs));
  }

  /** Lets the next one in. */
  leave(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

function lockPlace(folder: string): number | undefined {
  for (let number = 0; number < availableParallelism(); number++) {
    const fd = flockExclusive(join(folder, `place-${number}`));
    if (fd !== undefined) return fd;
  }
  return undefined;
}

/** Queues up; undefined: it was our turn for that long, and no place came free. */
async function awaitTurn(folder: string, signal: AbortSignal, patienceMs: number): Promise<number | undefined> {
  const turn = `turn-${String(process.hrtime.bigint()).padStart(20, "0")}-${process.pid}`;
  const path = join(folder, turn);
  const lock = flockExclusive(path);
  let patience: Deadline | undefined;
  try {
    while (patience?.expired !== true) {
      const ahead = countAhead(folder, turn);
      if (ahead === 0) {
        patience ??= Deadline.after(patienceMs);
        const fd = lockPlace(folder);
        if (fd !== undefined) return fd;
      }
      if (signal.aborted) throw new RuntimeError("canceled", "wait for a place to start in: canceled", { cause: signal.reason });
      await delay(pollMs * (1 + Math.min(ahead, manyAhead)));
    }
    return undefined;
  } finally {
    rmSync(path, { force: true });
    if (lock !== undefined) closeSync(lock);
  }
}

/** How many have come before. The first of them is forgotten if it has died. */
function countAhead(folder: string, turn: string): number {
  const ahead = readTurns(folder).filter((name) => name < turn);
  const [first] = ahead;
  if (first !== undefined) forgetDead(join(folder, first));
  return ahead.length;
}

function forgetDead(path: string): void {
  const lock = flockExclusive(path);
  if (lock === undefined) return;
  rmSync(path, { force: true });
  closeSync(lock);
}

function readTurns(folder: string): string[] {
  return readdirSync(folder).filter((name) => name.startsWith("turn-")).sort();
}
