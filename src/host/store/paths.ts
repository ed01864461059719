import { readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

/** The two folders everything lives in. The data folder survives a reboot, the run folder does not. */
export interface StateFolders {
  /** Containers, images, guest images, templates, volumes, snapshots. Root: /var/lib/casemate. */
  readonly data: string;
  /** Sockets, locks, ledgers. Root: /run/casemate. */
  readonly run: string;
}

/** True when this process is root of the whole machine: uid 0 and the identity uid map (rootless Podman shows uid 0 in a user namespace). */
export function isRootful(): boolean {
  return process.geteuid?.() === 0 && /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync("/proc/self/uid_map", "utf8"));
}

/** Where state goes: below `root` if one is given, else the system's folders for root and the XDG folders for everyone else. */
export function stateFolders(root: string | undefined, env: NodeJS.ProcessEnv = process.env): StateFolders {
  if (root !== undefined) return { data: root, run: join(root, "run") };
  if (isRootful()) return { data: "/var/lib/casemate", run: "/run/casemate" };
  const home = env["HOME"] ?? "/";
  return {
    data: join(env["XDG_DATA_HOME"] ?? join(home, ".local/share"), "casemate"),
    run: join(env["XDG_RUNTIME_DIR"] ?? `/tmp/casemate-run-${process.geteuid?.() ?? 0}`, "casemate"),
  };
}

/** Files of one container in the data folder. */
export function containerPaths(folders: StateFolders, containerId: string) {
  const folder = join(folders.data, "containers", containerId);
  return {
    folder,
    /** Our record: name, image, options (docs/files.md). */
    record: join(folder, "container.json"),
    /** State that changes: status, exit code, times. */
    status: join(folder, "status.json"),
    /** The OCI runtime-spec config; the folder is the bundle. */
    spec: join(folder, "config.json"),
    /** The writable layer: a sparse ext4 file. */
    disk: join(folder, "disk.ext4"),
    log: join(folder, "log"),
    /** Held by flock by whoever starts it again by its restart policy. */
    restartLock: join(folder, "restart.lock"),
  };
}

/** Folder of a volume; its files are in `_data`. */
export function volumeFolder(folders: StateFolders, name: string): string {
  return join(folders.data, "volumes", name);
}

/** The sandbox whose run folder that is, when its configuration cannot tell. */
export function sandboxOfFolder(folder: string): { readonly folders: StateFolders; readonly sandboxId: string } {
  const run = dirname(dirname(folder));
  // As stateFolders() lays them out.
  return { folders: { run, data: basename(run) === "run" ? dirname(run) : stateFolders(undefined).data }, sandboxId: basename(folder) };
}

/** Files of one sandbox in the run folder. */
export function sandboxPaths(folders: StateFolders, sandboxId: string) {
  const folder = join(folders.run, "sandboxes", sandboxId);
  return {
    folder,
    /** Held by flock while the owner lives. */
    ownerLock: join(folder, "owner.lock"),
    /** Held by flock by whoever starts an owner in the place of one that died. */
    starterLock: join(folder, "starter.lock"),
    ownerSocket: join(folder, "owner.sock"),
    ownerLog: join(folder, "owner.log"),
    /** What the owner was asked to run and has become: read by a new owner and by `ps`. */
    state: join(folder, "sandbox.json"),
    ledger: join(folder, "ledger.json"),
    qmpSocket: join(folder, "qmp.sock"),
    controlSocket: join(folder, "control.sock"),
    dataSocket: join(folder, "data.sock"),
    /** The host's end of the lane, while there is one. */
    laneSocket: join(folder, "lane.sock"),
    consoleSocket: join(folder, "console.sock"),
    console: join(folder, "console.log"),
    vmmLog: join(folder, "vmm.log"),
    /** The folder virtiofsd shows to the guest; volumes are bind-mounted below it. */
    share: join(folder, "share"),
  };
}

/** Where the memory of a saved VM is kept at hand, in the run folder. */
function heldMemoryPaths(run: string) {
  return {
    run,
    /** Which process holds the memory. */
    holder: join(run, "holder.json"),
    /** Held by flock while a holder is started. */
    holderLock: join(run, "holder.lock"),
    /** Held by flock, together, by all who use the memory. */
    use: join(run, "use.lock"),
  };
}

/** Files of one snapshot of a sandbox, as {@link templatePaths}. */
export function snapshotPaths(folders: StateFolders, name: string) {
  const folder = join(folders.data, "snapshots", name);
  return {
    folder,
    manifest: join(folder, "snapshot.json"),
    memory: join(folder, "memory"),
    state: join(folder, "state"),
    /** A container's writable layer, as it was. */
    disk: (diskId: string) => join(folder, `${diskId}.ext4`),
    ...heldMemoryPaths(join(folders.run, "snapshots", name)),
  };
}

/** Files of one template: what was saved in the data folder, what holds its memory in the run folder. */
export function templatePaths(folders: StateFolders, key: string) {
  const folder = join(folders.data, "templates", key);
  const run = join(folders.run, "templates", key);
  return {
    folder,
    manifest: join(folder, "template.json"),
    /** The guest's memory, sparse. */
    memory: join(folder, "memory"),
    /** The devices' state, as QEMU wrote it. */
    state: join(folder, "state"),
    /** The writable layer of a prepared container, as it was when the VM was saved. */
    layer: join(folder, "layer.ext4"),
    ...heldMemoryPaths(run),
    /** Held by flock while the template is made. */
    makerLock: join(folders.run, "templates", `${key}.lock`),
    /** What its maker does at the moment. */
    makerLog: join(folders.run, "templates", `${key}.log`),
    /** What the maker was asked for, and all that it said. */
    makerRequest: join(folders.run, "templates", `${key}.request`),
    makerOutput: join(folders.run, "templates", `${key}.output`),
    /** There since a container like the prepared one was started for the first time. */
    seen: join(folders.data, "templates", "seen", key),
  };
}
