import { readFileSync, watch } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { ownerToken } from "../../src/host/control/start-owner.ts";
import { sandboxPaths, type StateFolders } from "../../src/host/store/paths.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { isErrnoException } from "../../src/shared/base/errors.ts";
import { type ProcessIdentity, signalProcess } from "../../src/shared/linux/proc.ts";
import type { SeededRandom } from "./seeded-random.ts";

/** Longest wait for a write that a phase may not make after all. */
const writeWaitMs = 3_000;
/** Random moments lie within this time of the beginning of a phase. */
const momentMs = 400;
const lookMs = 20;
/** Longest wait for the first owner of a sandbox, or the next one after a kill. */
const ownerWaitMs = 5_000;
const storeFile = /\.json(\.tmp-\d+)?$/;

/** The states of a sandbox, and those of a container in it, in which its owner is killed. */
export const sandboxStates = ["boot", "end"] as const;
export const lifeStates = ["create", "start", "exec", "running", "update", "pause", "paused", "resume", "stop", "delete"] as const;
/** `idle`: a boot that was over before the kill came. */
export type KillState = typeof sandboxStates[number] | typeof lifeStates[number] | "idle";

/** Kills owners, by SIGKILL, and counts in what state of the life it did. */
export class OwnerKiller {
  readonly kills = new Map<KillState, number>();
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

  /** One kill: at the owner's next write to its store, or at a random moment. Resolves when it is done, or there was nobody to kill in time. `state`: asked at the kill. */
  async strike(state: () => KillState, sandboxId: string, spreadMs = momentMs): Promise<void> {
    const atWrite = this.#random.coin();
    const withSupervisor = this.#random.coin();
    for (let waited = 0; waited < ownerWaitMs && findOwners(sandboxId).owners.length === 0; waited += lookMs) await delay(lookMs);
    if (atWrite) await this.#untilWrite(sandboxId, 1 + this.#random.below(4));
    else await delay(this.#random.below(spreadMs));
    const struck = state();
    if (!this.#kill(sandboxId, withSupervisor)) return;
    this.kills.set(struck, (this.kills.get(struck) ?? 0) + 1);
    if (atWrite) this.atWrites++;
    if (withSupervisor) this.supervisorKills++;
  }

  #kill(sandboxId: string, withSupervisor: boolean): boolean {
    const { owners, supervisors } = findOwners(sandboxId);
    // The supervisor first: it must not see its child die.
    if (withSupervisor && owners.length > 0) for (const identity of supervisors) signalProcess(identity, "SIGKILL");
    return owners.map((identity) => signalProcess(identity, "SIGKILL")).includes(true);
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

function findOwners(sandboxId: string): Record<"owners" | "supervisors", ProcessIdentity[]> {
  const processes = findTaggedProcesses(ownerToken(sandboxId)).map((identity) => ({ identity, command: commandOf(identity.pid) }));
  const isSupervisor = ({ command }: { readonly command: string }): boolean => command.includes("owner-supervisor");
  return {
    owners: processes.filter((process) => process.command.includes("owner.cjs") && !isSupervisor(process)).map(({ identity }) => identity),
    supervisors: processes.filter(isSupervisor).map(({ identity }) => identity),
  };
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "latin1");
  } catch {
    return ""; // ended meanwhile
  }
}
