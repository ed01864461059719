import { closeSync, constants, existsSync, mkdirSync, openSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { eventually, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";
import { flockExclusive, flockShared } from "../../shared/linux/flock.ts";
import { createMemoryFile, sealMemoryFile } from "../../shared/linux/memfd.ts";
import { isAlive, type ProcessIdentity } from "../../shared/linux/proc.ts";
import { startProcess } from "../../shared/linux/run-process.ts";
import { packageRoot } from "../config/package-root.ts";
import { snapshotPaths, templatePaths, type StateFolders } from "../store/paths.ts";
import { endTaggedProcesses, taggedEnvironment } from "../store/tagged-process.ts";
import { copyMemory, savedMemoryName } from "../hypervisor/guest-memory.ts";
import { removeTemplate, savedVmCorrupt, touchTemplate, type Template } from "./template-store.ts";

/** The holder's descriptor with the memory. */
const holderFd = 3;
/** How long the memory of a template that nobody uses is kept at hand, up to twice; after that the next start reads it from disk again. */
const idleSeconds = 600;
/** Filling takes 0.2 s; many starts at once wait for the first. */
const fillTimeoutMs = 30_000;

/** The memory of a saved VM, opened. */
export interface HeldMemory {
  /** A file in memory, sealed: whoever has it can only read it and map it copy-on-write. */
  readonly fd: number;
  /** Says by a lock that the memory is in use, until it is closed. */
  readonly useFd: number;
}

/** The memory of a saved VM: what it must be, and where it is. */
export interface SavedMemory {
  readonly key: string;
  readonly memoryBytes: number;
  readonly memoryHash: string;
  readonly paths: MemoryPaths;
}

type MemoryPaths = Pick<ReturnType<typeof templatePaths>, "memory" | "run" | "holder" | "holderLock" | "use">;

/**
 * Opens a template's memory. All VMs that were started from one template share one copy of it: a
 * memory file that a small process holds. QEMU before 8.2 opens even a copy-on-write view for writing,
 * so the file is sealed by the kernel: nobody, not the one who made it, can ever change it.
 * @throws RuntimeError `data_loss` (reason `template_corrupt`).
 */
export async function openTemplateMemory(folders: StateFolders, template: Template, options: WaitOptions = {}): Promise<HeldMemory> {
  const memory = await openMemory({ ...template, paths: templatePaths(folders, template.key) }, options);
  touchTemplate(folders, template.key);
  return memory;
}

/** Hands a freshly saved VM's memory to a holder, so that the first start does not read it from disk. */
export async function holdTemplateMemory(folders: StateFolders, key: string, memoryFd: number): Promise<void> {
  await holdMemory({ key, paths: templatePaths(folders, key) }, memoryFd);
}

/** Lets go of the memory of one template, or of all, and of all snapshots; VMs that map it keep it. No holder is fine. */
export async function releaseTemplateMemory(folders: StateFolders, key?: string): Promise<void> {
  if (key !== undefined) return releaseMemory(key, templatePaths(folders, key));
  for (const one of foldersIn(join(folders.run, "templates"))) await releaseMemory(one, templatePaths(folders, one));
  for (const name of foldersIn(join(folders.run, "snapshots"))) await releaseMemory(name, snapshotPaths(folders, name));
}

/** Removes a template and lets go of its memory; VMs that were started from it have what they need. "Already gone" is success. */
export async function deleteTemplate(folders: StateFolders, key: string): Promise<void> {
  removeTemplate(folders, key);
  await releaseTemplateMemory(folders, key);
}

/** As {@link openTemplateMemory}, of any saved VM. */
export async function openMemory(memory: SavedMemory, options: WaitOptions = {}): Promise<HeldMemory> {
  const { paths } = memory;
  mkdirSync(paths.run, { recursive: true, mode: 0o700 });
  // First, so that the holder does not go while we look for it.
  const useFd = flockShared(paths.use);
  try {
    return { fd: openHeld(paths.holder) ?? await underLock(paths.holderLock, options, async () => openHeld(paths.holder) ?? await fill(memory)), useFd };
  } catch (error) {
    closeSync(useFd);
    throw error;
  }
}

/** As {@link holdTemplateMemory}, of any saved VM. */
export async function holdMemory({ key, paths }: Pick<SavedMemory, "key" | "paths">, memoryFd: number): Promise<void> {
  mkdirSync(paths.run, { recursive: true, mode: 0o700 });
  await underLock(paths.holderLock, {}, async () => {
    sealMemoryFile(memoryFd);
    await releaseMemory(key, paths);
    await startHolder(paths, key, memoryFd);
  });
}

/** Ends the holder of a saved VM's memory. */
export async function releaseMemory(key: string, paths: MemoryPaths): Promise<void> {
  const identity = readHolder(paths.holder);
  if (identity !== undefined) await endTaggedProcesses({ kind: "template-holder", name: key, token: token(paths, key), identity }, 0);
}

async function fill({ key, memoryBytes, memoryHash, paths }: SavedMemory): Promise<number> {
  const source = openSync(paths.memory, "r");
  const fd = createMemoryFile(savedMemoryName, memoryBytes);
  try {
    const { hash } = await copyMemory(source, fd, memoryBytes);
    if (hash !== memoryHash) throw savedVmCorrupt(key, "its memory");
    sealMemoryFile(fd);
    await startHolder(paths, key, fd);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  } finally {
    closeSync(source);
  }
}

async function startHolder(paths: MemoryPaths, key: string, memoryFd: number): Promise<void> {
  const holder = await startProcess(join(packageRoot(), "bin/template-holder"), [paths.use, String(idleSeconds)], {
    stdio: ["ignore", "ignore", "ignore", memoryFd], cwd: "/", env: taggedEnvironment(token(paths, key)),
  });
  holder.child.unref();
  writeFileAtomic(paths.holder, JSON.stringify(holder.identity));
}

/** With the folder, because one template may be in use from several of them. */
function token(paths: MemoryPaths, key: string): string {
  return `template/${key}${paths.run}`;
}

function foldersIn(path: string): string[] {
  return existsSync(path) ? readdirSync(path, { withFileTypes: true }).filter((entry) => entry.isDirectory()).map(({ name }) => name) : [];
}

/** The held memory; undefined without a living holder. */
function openHeld(path: string): number | undefined {
  const identity = readHolder(path);
  if (identity === undefined || !isAlive(identity)) return undefined;
  let fd: number;
  try {
    fd = openSync(`/proc/${identity.pid}/fd/${holderFd}`, constants.O_RDONLY);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined;
    throw RuntimeError.wrap(error, "open the template's memory");
  }
  // Alive after the opening: then it was no other process with the same pid that we opened.
  if (isAlive(identity)) return fd;
  closeSync(fd);
  return undefined;
}

function readHolder(path: string): ProcessIdentity | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as ProcessIdentity; // written by startHolder alone, in a folder only we may enter
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined;
    throw RuntimeError.wrap(error, `read "${path}"`);
  }
}

async function underLock<T>(path: string, options: WaitOptions, work: () => Promise<T>): Promise<T> {
  const lock = await eventually("wait for the template's memory", () => flockExclusive(path), { timeoutMs: fillTimeoutMs, ...options });
  try {
    return await work();
  } finally {
    closeSync(lock);
  }
}
