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
import { templatePaths, type StateFolders } from "../store/paths.ts";
import { endTaggedProcesses, taggedEnvironment } from "../store/tagged-process.ts";
import { copyMemory } from "./memory-copy.ts";
import { templateCorrupt, touchTemplate, type Template } from "./template-store.ts";

/** The holder's descriptor with the memory. */
const holderFd = 3;
/** How long the memory of a template that nobody uses is kept at hand, up to twice; after that the next start reads it from disk again. */
const idleSeconds = 600;
/** Filling takes 0.2 s; many starts at once wait for the first. */
const fillTimeoutMs = 30_000;

/** A template's memory, opened. */
export interface TemplateMemory {
  /** A file in memory, sealed: whoever has it can only read it and map it copy-on-write. */
  readonly fd: number;
  /** Says by a lock that the memory is in use, until it is closed. */
  readonly useFd: number;
}

/**
 * Opens a template's memory. All VMs that were started from one template share one copy of it: a
 * memory file that a small process holds. QEMU before 8.2 opens even a copy-on-write view for writing,
 * so the file is sealed by the kernel: nobody, not the one who made it, can ever change it.
 * @throws RuntimeError `data_loss` (reason `template_corrupt`).
 */
export async function openTemplateMemory(folders: StateFolders, template: Template, options: WaitOptions = {}): Promise<TemplateMemory> {
  const paths = templatePaths(folders, template.key);
  mkdirSync(paths.run, { recursive: true, mode: 0o700 });
  // First, so that the holder does not go while we look for it.
  const useFd = flockShared(paths.use);
  try {
    const fd = openHeld(paths.holder) ?? await underLock(paths.holderLock, options, async () => openHeld(paths.holder) ?? await fill(folders, template));
    touchTemplate(folders, template.key);
    return { fd, useFd };
  } catch (error) {
    closeSync(useFd);
    throw error;
  }
}

/** Hands a freshly saved VM's memory to a holder, so that the first start does not read it from disk. */
export async function holdTemplateMemory(folders: StateFolders, template: Template, memoryFd: number): Promise<void> {
  const paths = templatePaths(folders, template.key);
  mkdirSync(paths.run, { recursive: true, mode: 0o700 });
  await underLock(paths.holderLock, {}, async () => {
    sealMemoryFile(memoryFd);
    await endHolder(paths, template.key);
    await startHolder(paths, template.key, memoryFd);
  });
}

/** Lets go of the memory of one template, or of all; VMs that map it keep it. No holder is fine. */
export async function releaseTemplateMemory(folders: StateFolders, key?: string): Promise<void> {
  const run = join(folders.run, "templates");
  const keys = key === undefined && existsSync(run) ? readdirSync(run, { withFileTypes: true }).filter((entry) => entry.isDirectory()).map(({ name }) => name) : [key ?? []].flat();
  for (const one of keys) await endHolder(templatePaths(folders, one), one);
}

async function fill(folders: StateFolders, template: Template): Promise<number> {
  const paths = templatePaths(folders, template.key);
  const source = openSync(paths.memory, "r");
  const fd = createMemoryFile("casemate-template", template.memoryBytes);
  try {
    const { hash } = await copyMemory(source, fd, template.memoryBytes);
    if (hash !== template.memoryHash) throw templateCorrupt(template, "its memory");
    sealMemoryFile(fd);
    await startHolder(paths, template.key, fd);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  } finally {
    closeSync(source);
  }
}

async function startHolder(paths: ReturnType<typeof templatePaths>, key: string, memoryFd: number): Promise<void> {
  const holder = await startProcess(join(packageRoot(), "bin/template-holder"), [paths.use, String(idleSeconds)], {
    stdio: ["ignore", "ignore", "ignore", memoryFd], cwd: "/", env: taggedEnvironment(token(paths, key)),
  });
  holder.child.unref();
  writeFileAtomic(paths.holder, JSON.stringify(holder.identity));
}

async function endHolder(paths: ReturnType<typeof templatePaths>, key: string): Promise<void> {
  const identity = readHolder(paths.holder);
  if (identity !== undefined) await endTaggedProcesses({ kind: "template-holder", name: key, token: token(paths, key), identity }, 0);
}

/** With the folder, because one template may be in use from several of them. */
function token(paths: ReturnType<typeof templatePaths>, key: string): string {
  return `template/${key}${paths.run}`;
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
