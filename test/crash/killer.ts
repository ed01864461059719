import { readFileSync, watch } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { ownerToken } from "../../src/host/control/start-owner.ts";
import { sandboxPaths, type StateFolders } from "../../src/host/store/paths.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { isErrnoException } from "../../src/shared/base/errors.ts";
import { signalProcess } from "../../src/shared/linux/proc.ts";
import type { SeededRandom } from "./seeded-random.ts";

/** Longest wait for a write that a phase may not make after all. */
const writeWaitMs = 3_000;
/** Random moments lie within this time of the beginning of a phase. */
const momentMs = 400;
const storeFile = /\.json(\.tmp-\d+)?$/;

/** Kills owners, by SIGKILL, and counts in what state of the life it did. */
export class OwnerKiller {
  readonly kills = new Map<string, number>();
  supervisorKills = 0;
  atWrites = 0;
  readonly #folders: StateFolders;
  readonly #random: SeededRandom;

  constructor(folders: StateFolders, random: SeededRandom) {
    this.#folders = folders;
    this.#random = random;
  }

  get total(): number {
    return [...this.kills.values()].reduce((sum, count) => sum + count, 0);
  }

  /** One kill: at the owner's next write to its store, or at a random moment. Resolves when it is done, or there was nobody to kill in time. */
  async strike(phase: string, sandboxId: string, spreadMs = momentMs): Promise<void> {
    const atWrite = this.#random.coin();
    const withSupervisor = this.#random.coin();
    if (atWrite) await this.#untilWrite(sandboxId, 1 + this.#random.below(4));
    else await delay(this.#random.below(spreadMs));
    if (!this.#kill(sandboxId, withSupervisor)) return;
    this.kills.set(phase, (this.kills.get(phase) ?? 0) + 1);
    if (atWrite) this.atWrites++;
    if (withSupervisor) this.supervisorKills++;
  }

  #kill(sandboxId: string, withSupervisor: boolean): boolean {
    const processes = findTaggedProcesses(ownerToken(sandboxId)).map((identity) => ({ identity, command: commandOf(identity.pid) }));
    const owners = processes.filter(({ command }) => command.includes("owner.js") && !command.includes("owner-supervisor"));
    // The supervisor first: it must not see its child die.
    if (withSupervisor && owners.length > 0) for (const { identity, command } of processes) if (command.includes("owner-supervisor")) signalProcess(identity, "SIGKILL");
    return owners.map(({ identity }) => signalProcess(identity, "SIGKILL")).includes(true);
  }

  /** Waits for the nth change of a state file: half of them are the draft, the others its taking the place of the file. */
  async #untilWrite(sandboxId: string, count: number): Promise<void> {
    const { folder } = sandboxPaths(this.#folders, sandboxId);
    const { promise: written, resolve } = Promise.withResolvers<void>();
    let watcher: ReturnType<typeof watch> | undefined;
    try {
      let left = count;
      watcher = watch(folder, (_event, name) => { if (name !== null && storeFile.test(name) && --left === 0) resolve(); });
      watcher.on("error", () => resolve());
    } catch (error) {
      if (!isErrnoException(error, "ENOENT")) throw error; // the sandbox has gone
      resolve();
    }
    const late = new AbortController();
    await Promise.race([written, delay(writeWaitMs, undefined, { signal: late.signal }).catch(() => undefined)]);
    late.abort();
    watcher?.close();
  }
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1");
  } catch {
    return ""; // ended meanwhile
  }
}
