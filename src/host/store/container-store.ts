import { linkSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";
import type { ContainerSettings } from "./container-settings.ts";
import type { HealthState } from "./health.ts";
import { containerPaths, type StateFolders } from "./paths.ts";
import type { RestartState } from "./restart-policy.ts";
import { readStateFile } from "./state-file.ts";
import { storageError } from "./storage-error.ts";

/** A port as the user asked for it. */
export interface PublishRequest {
  readonly protocol: "tcp" | "udp";
  /** Empty: all addresses. */
  readonly hostAddress: string;
  /** Host ports that will do, first and last; undefined: any free one. */
  readonly hostPorts?: { readonly first: number; readonly last: number } | undefined;
  readonly containerPort: number;
}

/** A port as it was published. */
export interface PublishedPort {
  readonly protocol: "tcp" | "udp";
  /** Empty: all addresses. */
  readonly hostAddress: string;
  readonly hostPort: number;
  readonly containerPort: number;
}

/** A host folder, file or named volume that a container sees. */
export interface ContainerVolume {
  readonly type: "bind" | "volume";
  /** Absolute host path. */
  readonly source: string;
  /** Name of a named volume, else empty. */
  readonly name: string;
  readonly destination: string;
  readonly readOnly: boolean;
}

/**
 * What a front end decided about a container when it made it; never changes afterwards except by
 * `rename` and `update`, and by what asks it to end. File container.json, docs/files.md.
 */
export interface ContainerRecord {
  readonly version: 1;
  readonly containerId: string;
  readonly sandboxId: string;
  readonly name: string;
  readonly createdAtUnixMs: number;
  /** As the user named it. */
  readonly image: string;
  readonly imageId: string;
  readonly imageDigest: string;
  /** Read-only root file system images, lowest last. */
  readonly rootfs: readonly { readonly path: string; readonly fsType: string }[];
  readonly command: readonly string[];
  readonly entrypoint: readonly string[];
  readonly env: readonly string[];
  readonly workingDir: string;
  readonly user: string;
  readonly hostname: string;
  readonly terminal: boolean;
  readonly openStdin: boolean;
  readonly autoRemove: boolean;
  readonly readOnlyRootfs: boolean;
  readonly privileged: boolean;
  readonly network: "none" | "user";
  readonly ports: readonly PublishRequest[];
  readonly volumes: readonly ContainerVolume[];
  /** 0: no limit of its own. */
  readonly memoryBytes: number;
  /** Cores; 0: no limit of its own. */
  readonly cpus: number;
  readonly stopSignal: string;
  readonly stopTimeoutMs: number;
  readonly labels: Readonly<Record<string, string>>;
  /** Boot cold instead of from a template. */
  readonly coldBoot: boolean;
  /** Start from a template without a container in it. Default false. */
  readonly guestTemplate?: boolean;
  /** The pod it is in; undefined: its sandbox is its own. */
  readonly pod?: string;
  /** A first process of ours (docker's --init), or one that does nothing instead of the image's; undefined: neither. */
  readonly init?: "init" | "idle" | undefined;
  readonly settings?: ContainerSettings | undefined;
  /** Somebody asked it to end since it was last started: its restart policy has nothing to say then. */
  readonly stopRequested?: boolean;
}

/** Whom the container's processes run as; root by number when image and caller name nobody, so that no file of the image need know it. */
export function processUser({ user }: Pick<ContainerRecord, "user">): string {
  return user === "" ? "0" : user;
}

/** docker's words for where a container is in its life. */
export type ContainerStatusWord = "created" | "running" | "paused" | "restarting" | "exited";

/** It has processes, though those of a paused one stand still. */
export function hasProcesses(status: ContainerStatusWord): boolean {
  return status === "running" || status === "paused";
}

/** It has processes, or will by its restart policy: for docker it runs. */
export function isActive(status: ContainerStatusWord): boolean {
  return hasProcesses(status) || status === "restarting";
}

/** What changes in a container's life; written by the owner. File status.json. */
export interface ContainerStatus {
  readonly version: 1;
  readonly status: ContainerStatusWord;
  /** Exit code, or 128 + signal; 0 unless exited. */
  readonly exitCode: number;
  readonly oomKilled: boolean;
  /** Why it never ran, or why it ended when that was not its own doing. */
  readonly error: string;
  /** 0: not yet. */
  readonly startedAtUnixMs: number;
  readonly finishedAtUnixMs: number;
  /** Boot id of the host it last ran on; another one means that the host was rebooted since. */
  readonly bootId: string;
  readonly guestPid: number;
  readonly ipAddress: string;
  /** Ports as they were really published. */
  readonly ports: readonly PublishedPort[];
  /** Its restarts since somebody started it; undefined: none. */
  readonly restart?: RestartState | undefined;
  /** Of its latest run; undefined: nobody asks for it. */
  readonly health?: HealthState | undefined;
}

const namePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;
const idPattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;

/** All containers of one data folder. Reads are plain file reads, so that `ps` loads next to nothing. */
export class ContainerStore {
  readonly folders: StateFolders;

  constructor(folders: StateFolders) {
    this.folders = folders;
  }

  /**
   * Claims the name, then writes a new container's files. The claim is a file made exclusively, so
   * two callers can never both have a name.
   * @throws RuntimeError `already_exists` (reason `name_taken`), `invalid_argument` for a bad name.
   */
  create(record: ContainerRecord, spec: object): void {
    const paths = containerPaths(this.folders, record.containerId);
    this.#claimName(record);
    try {
      mkdirSync(paths.folder, { recursive: true, mode: 0o700 });
      writeFileAtomic(paths.spec, JSON.stringify(spec, undefined, 1), undefined, { durable: "content" });
      writeFileAtomic(paths.status, JSON.stringify(newStatus, undefined, 1), undefined, { durable: "content" });
      writeFileAtomic(paths.record, JSON.stringify(record, undefined, 1));
    } catch (error) {
      this.remove(record);
      throw storageError(error, `write files of container "${record.name}"`);
    }
  }

  /**
   * Gives a container another name; both are its until the record says the new one.
   * @throws RuntimeError `already_exists` (reason `name_taken`), `invalid_argument` for a bad name.
   */
  rename(record: ContainerRecord, name: string): void {
    if (name === record.name) throw new RuntimeError("already_exists", `rename container "${name}": that is its name already`, { reason: "name_taken", hint: "choose another name" });
    this.#claimName({ ...record, name });
    writeFileAtomic(containerPaths(this.folders, record.containerId).record, JSON.stringify({ ...record, name }, undefined, 1));
    rmSync(join(this.#namesFolder, record.name), { force: true });
  }

  /** Changes what a front end may change of a record, as it is on disk by now. A container that is gone stays so. */
  change(containerId: string, changes: Partial<Pick<ContainerRecord, "stopRequested" | "settings">>): void {
    const record = this.read(containerId);
    if (record !== undefined) writeFileAtomic(containerPaths(this.folders, containerId).record, JSON.stringify({ ...record, ...changes }, undefined, 1));
  }

  /** Removes a container's files and frees its name. "Already gone" is success. */
  remove(record: Pick<ContainerRecord, "containerId" | "name">): void {
    const { folder } = containerPaths(this.folders, record.containerId);
    const doomed = join(this.folders.data, "containers", `.gone-${record.containerId}`);
    try {
      renameSync(folder, doomed); // out of sight at once, so that a half-removed container is never listed
    } catch (error) {
      if (!isErrnoException(error, "ENOENT")) throw RuntimeError.wrap(error, `remove container "${record.name}"`);
    }
    rmSync(doomed, { recursive: true, force: true });
    if (this.#nameOwner(record.name) === record.containerId) rmSync(join(this.#namesFolder, record.name), { force: true });
  }

  /** Every container, oldest first. Folders that are half made or half gone are passed over. */
  list(): ContainerRecord[] {
    let names: string[];
    try {
      names = readdirSync(join(this.folders.data, "containers"));
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return [];
      throw RuntimeError.wrap(error, "list containers");
    }
    const records = names.filter((name) => idPattern.test(name)).map((name) => this.read(name));
    return records.filter((record) => record !== undefined).sort((a, b) => a.createdAtUnixMs - b.createdAtUnixMs);
  }

  /** The record of a full id; undefined when there is none. */
  read(containerId: string): ContainerRecord | undefined {
    // Checked: only create() writes this file, atomically; the version says which shape it has.
    return readStateFile(containerPaths(this.folders, containerId).record) as ContainerRecord | undefined;
  }

  readStatus(containerId: string): ContainerStatus {
    return (readStateFile(containerPaths(this.folders, containerId).status) as ContainerStatus | undefined) ?? newStatus; // checked as above
  }

  /** Not `durable`: a crash of the host may cost this status, never the one of a container that has ended. */
  writeStatus(containerId: string, status: ContainerStatus, options: { readonly durable?: boolean } = {}): void {
    writeFileAtomic(containerPaths(this.folders, containerId).status, JSON.stringify(status, undefined, 1), undefined, options);
  }

  /**
   * The one container that a name, full id or unique id prefix means.
   * @throws RuntimeError `not_found` (reason `container_not_found`), `invalid_argument` (reason `ambiguous_id`).
   */
  find(nameOrId: string): ContainerRecord {
    const byName = namePattern.test(nameOrId) ? this.#nameOwner(nameOrId) : undefined;
    const named = byName === undefined ? undefined : this.read(byName);
    if (named !== undefined) return named;
    const matches = nameOrId === "" ? [] : this.list().filter((record) => record.containerId.startsWith(nameOrId));
    const [only] = matches;
    if (only === undefined) throw new RuntimeError("not_found", `no such container: ${nameOrId}`, { reason: "container_not_found", hint: "`casemate ps -a` lists the containers" });
    if (matches.length > 1) throw new RuntimeError("invalid_argument", `id prefix "${nameOrId}" is ambiguous: ${matches.length} containers begin with it`, { reason: "ambiguous_id" });
    return only;
  }

  #claimName({ name, containerId }: ContainerRecord): void {
    if (!namePattern.test(name)) throw new RuntimeError("invalid_argument", `container name "${name}": only letters, digits, "_", "." and "-" are allowed, beginning with a letter or digit`, { reason: "bad_name" });
    const path = join(this.#namesFolder, name);
    const draft = join(this.#namesFolder, `.${containerId}`); // no name begins with a dot
    try {
      mkdirSync(this.#namesFolder, { recursive: true, mode: 0o700 });
      // Written under another name first: on a full disk a claim without its owner would stay for good.
      writeFileSync(draft, containerId, { mode: 0o600 });
      linkSync(draft, path);
    } catch (error) {
      if (!isErrnoException(error, "EEXIST")) throw storageError(error, `claim name "${name}"`);
      throw new RuntimeError("already_exists", `container name "${name}" is in use by container "${this.#nameOwner(name)}"`, { reason: "name_taken", hint: `remove it with "casemate rm ${name}" or choose another name` });
    } finally {
      rmSync(draft, { force: true });
    }
  }

  get #namesFolder(): string {
    return join(this.folders.data, "names");
  }

  #nameOwner(name: string): string | undefined {
    try {
      return readFileSync(join(this.#namesFolder, name), "utf8");
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return undefined;
      throw RuntimeError.wrap(error, `look up name "${name}"`);
    }
  }
}

/** The status of a container that has never run. */
export const newStatus: ContainerStatus = { version: 1, status: "created", exitCode: 0, oomKilled: false, error: "", startedAtUnixMs: 0, finishedAtUnixMs: 0, bootId: "", guestPid: 0, ipAddress: "", ports: [] };
