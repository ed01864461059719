import { linkSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { PublishRequest } from "./container-store.ts";
import type { StateFolders } from "./paths.ts";
import { readStateFile } from "./state-file.ts";

/** When a pod's sandbox ends by itself: with its last container, with its first one, or only when it is stopped. */
export type PodEnding = "last" | "first" | "stop";

/** Several containers in one sandbox: network, IPC, host name and /dev/shm are theirs together. File pods/NAME.json, docs/files.md. */
export interface PodRecord {
  readonly version: 1;
  readonly name: string;
  readonly sandboxId: string;
  readonly createdAtUnixMs: number;
  readonly network: "none" | "user";
  readonly ports: readonly PublishRequest[];
  /** Its containers see each other's processes. */
  readonly sharePid: boolean;
  readonly ending: PodEnding;
}

const namePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$/;

/** @throws RuntimeError `invalid_argument` (reason `bad_name`). */
export function requirePodName(name: string): void {
  if (!namePattern.test(name)) throw new RuntimeError("invalid_argument", `pod name "${name}": only letters, digits, "_", "." and "-", at most 63, beginning with a letter or digit`, { reason: "bad_name" });
}

/** The pods of one data folder. */
export class PodStore {
  readonly #folder: string;

  constructor(folders: StateFolders) {
    this.#folder = join(folders.data, "pods");
  }

  /** @throws RuntimeError `already_exists` (reason `name_taken`), `invalid_argument` (reason `bad_name`). */
  create(pod: PodRecord): void {
    requirePodName(pod.name);
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const made = join(this.#folder, `.new-${pod.sandboxId}`);
    try {
      writeFileSync(made, JSON.stringify(pod, undefined, 1), { mode: 0o600, flush: true });
      linkSync(made, this.#path(pod.name)); // whole or not at all, and never over another
    } catch (error) {
      if (!isErrnoException(error, "EEXIST")) throw RuntimeError.wrap(error, `make pod "${pod.name}"`);
      throw new RuntimeError("already_exists", `pod "${pod.name}" exists already`, { reason: "name_taken", hint: `remove it with "casemate pod rm ${pod.name}" or choose another name` });
    } finally {
      rmSync(made, { force: true });
    }
  }

  /** @throws RuntimeError `not_found` (reason `pod_not_found`). */
  find(name: string): PodRecord {
    // Checked: only create() writes this file, whole; the version says which shape it has.
    const pod = namePattern.test(name) ? readStateFile(this.#path(name)) as PodRecord | undefined : undefined;
    if (pod === undefined) throw new RuntimeError("not_found", `no such pod: ${name}`, { reason: "pod_not_found", hint: "`casemate pod ps` lists the pods" });
    return pod;
  }

  /** Every pod, oldest first. */
  list(): PodRecord[] {
    let names: string[];
    try {
      names = readdirSync(this.#folder);
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return [];
      throw RuntimeError.wrap(error, "list pods");
    }
    return names.filter((name) => name.endsWith(".json")).map((name) => this.find(name.slice(0, -5))).sort((a, b) => a.createdAtUnixMs - b.createdAtUnixMs);
  }

  /** "Already gone" is success. */
  remove(name: string): void {
    rmSync(this.#path(name), { force: true });
  }

  #path(name: string): string {
    return join(this.#folder, `${name}.json`);
  }
}
