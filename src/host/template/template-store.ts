import { createHash } from "node:crypto";
import { closeSync, existsSync, fstatSync, fsyncSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync, rmSync, statSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { WaitOptions } from "../../shared/base/deadline.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import type { DevicesAtStart } from "../hypervisor/virtual-machine.ts";
import { syncPath, writeFileAtomic } from "../../shared/linux/atomic-file.ts";
import { isFlocked } from "../../shared/linux/flock.ts";
import { readStateFile } from "../store/state-file.ts";
import { templatePaths, type StateFolders } from "../store/paths.ts";
import { type MemoryPiece, copyMemory } from "../hypervisor/guest-memory.ts";

/** A container that was made in a VM before it was saved, and waits there for its start. */
export interface PreparedContainer {
  /** Its name in the saved guest; every clone gives it one of its own. */
  readonly containerId: string;
  readonly guestPid: number;
  /** Its stdio on the data port. */
  readonly streamId: number;
  /** The disk with its writable layer; a clone starts with a copy of what is in the template's folder. */
  readonly layerDiskId: string;
  /** Digest of the manifest of the image that it is plugged with. */
  readonly imageDigest: string;
  /** Image and command, for people. */
  readonly title: string;
}

/** A VM that was booted once and saved, as template.json says it (docs/files.md). Nothing in its folder ever changes. */
export interface Template {
  readonly version: 1;
  readonly key: string;
  readonly createdAtUnixMs: number;
  readonly accelerator: string;
  readonly kernelRelease: string;
  readonly guestImageId: string;
  readonly memoryBytes: number;
  /** Hash of the memory, {@link copyMemory}'s kind. */
  readonly memoryHash: string;
  /** Bytes of memory that are not zero. */
  readonly memoryUsedBytes: number;
  readonly stateBytes: number;
  /** SHA-256 of the device state, hexadecimal. */
  readonly stateHash: string;
  /** What the VM had plugged when it was saved. */
  readonly plugged: DevicesAtStart;
  /** The container that waits in it for its start; undefined: none. */
  readonly prepared?: PreparedContainer;
  /** The file with that container's writable layer; the hash is {@link copyMemory}'s kind. */
  readonly layer?: { readonly bytes: number; readonly hash: string; readonly pieces: readonly MemoryPiece[] };
  /** How long it took to boot, warm up and save. */
  readonly madeInMs: number;
}

/** Unused for longer than this, a template is removed when another one is made. */
const maxAgeMs = 14 * 24 * 3_600_000;
/** Most templates that are kept, the last used first; each is some 150 MB. */
const maxTemplates = 6;
/** A fresh layer has some 100 KiB; a slow, full disk is given its time. */
const copyTimeoutMs = 60_000;
const draftPrefix = ".new-", gonePrefix = ".gone-", damagedName = ".damaged";
/** A key as people see it: enough to tell one from another. */
export const shownKeyLength = 12;
const keyPattern = /^[0-9a-f]{32}$/;

/** The template with that key if it is there, its manifest can be read, and the rest is whole in size. */
export function readTemplate(folders: StateFolders, key: string): Template | undefined {
  const { manifest, memory, state, layer } = templatePaths(folders, key);
  let template: Template | undefined;
  try {
    template = readStateFile(manifest) as Template | undefined; // written by publishTemplate alone
  } catch (error) {
    if (!RuntimeError.is(error, "data_loss")) throw error;
  }
  if (template === undefined) return undefined;
  const whole = sizeOf(memory) === template.memoryBytes && sizeOf(state) === template.stateBytes && (template.layer === undefined || sizeOf(layer) === template.layer.bytes);
  return whole ? template : undefined;
}

/** Every template, the last used first. Folders that are half made or half gone are passed over. */
export function listTemplates(folders: StateFolders): { readonly template: Template; readonly lastUsedUnixMs: number }[] {
  return namesIn(join(folders.data, "templates")).filter((name) => keyPattern.test(name)).flatMap((key) => {
    const template = readTemplate(folders, key);
    return template === undefined ? [] : [{ template, lastUsedUnixMs: statSync(templatePaths(folders, key).manifest).mtimeMs }];
  }).sort((a, b) => b.lastUsedUnixMs - a.lastUsedUnixMs);
}

/** The one template that a key or its beginning means. @throws RuntimeError `not_found` (reason `template_not_found`). */
export function findTemplate(folders: StateFolders, prefix: string): Template {
  const matches = listTemplates(folders).filter(({ template }) => template.key.startsWith(prefix));
  const [only] = matches;
  if (only === undefined || matches.length > 1) throw new RuntimeError("not_found", `template "${prefix}": ${matches.length === 0 ? "no such template" : "more than one begins so"}`, { reason: "template_not_found", hint: "`casemate template ls` lists them" });
  return only.template;
}

/** What a maker has in its hands when the VM is saved. */
export interface SavedVm extends Pick<Template, "key" | "accelerator" | "kernelRelease" | "guestImageId" | "memoryBytes" | "madeInMs" | "plugged" | "prepared"> {
  /** The guest's memory; nobody writes it any more. */
  readonly memoryFd: number;
  /** File with the device state. */
  readonly statePath: string;
  /** File with the prepared container's writable layer. */
  readonly layerPath?: string;
}

/** Puts a saved VM on disk as a template: whole, or not at all. The caller holds the key's lock. */
export async function publishTemplate(folders: StateFolders, saved: SavedVm): Promise<Template> {
  const { memoryFd, statePath, layerPath, ...facts } = saved;
  const paths = templatePaths(folders, saved.key);
  const parent = join(folders.data, "templates");
  const draft = join(parent, `${draftPrefix}${saved.key}`);
  rmSync(draft, { recursive: true, force: true }); // of a maker that died
  mkdirSync(draft, { recursive: true, mode: 0o700 });
  try {
    const memory = openSync(join(draft, "memory"), "wx", 0o400);
    let copied;
    try {
      copied = await copyMemory(memoryFd, memory, saved.memoryBytes);
      fsyncSync(memory);
    } finally {
      closeSync(memory);
    }
    const layer = layerPath === undefined ? undefined : await copyWhole(layerPath, join(draft, "layer.ext4"));
    syncFiles(draft);
    const state = readFileSync(statePath);
    writeFileAtomic(join(draft, "state"), state, 0o400);
    const template: Template = {
      version: 1, ...facts, createdAtUnixMs: Date.now(),
      memoryHash: copied.hash, memoryUsedBytes: copied.usedBytes, stateBytes: state.length, stateHash: hashState(state),
      ...(layer !== undefined && { layer }),
    };
    writeFileAtomic(join(draft, "template.json"), JSON.stringify(template, undefined, 1));
    rmSync(paths.folder, { recursive: true, force: true }); // one that was found damaged
    renameSync(draft, paths.folder);
    syncPath(parent);
    return template;
  } catch (error) {
    rmSync(draft, { recursive: true, force: true });
    throw RuntimeError.wrap(error, `write template "${saved.key}"`);
  }
}

/** The devices' state, compared with its hash. @throws RuntimeError `data_loss` (reason `template_corrupt`). */
export function openSavedState(key: string, path: string, hash: string): number {
  if (hashState(readFileSync(path)) !== hash) throw savedVmCorrupt(key, "its devices' state");
  return openSync(path, "r");
}

/** The error of a saved VM whose bytes are not those that were written. */
export function savedVmCorrupt(key: string, what: string): RuntimeError {
  return new RuntimeError("data_loss", `saved VM "${key}": ${what} is not what was saved`, { reason: "template_corrupt", hint: "a template is set aside and made again by the next run; check the disk" });
}

/** Notes that a template was used just now; what is used is kept longest. */
export function touchTemplate(folders: StateFolders, key: string): void {
  const now = new Date();
  try {
    utimesSync(templatePaths(folders, key).manifest, now, now);
  } catch (error) {
    if (!isErrnoException(error, "ENOENT")) throw error; // removed meanwhile: whoever has it open goes on
  }
}

/** Takes a damaged template out of the way, so that the next run makes a new one; the last damaged one is kept for a look. "Already gone" is success. */
export function setTemplateAside(folders: StateFolders, key: string): void {
  const { folder } = templatePaths(folders, key);
  const aside = join(folders.data, "templates", damagedName);
  if (existsSync(folder)) rmSync(aside, { recursive: true, force: true });
  try {
    renameSync(folder, aside);
  } catch (error) {
    if (!isErrnoException(error, "ENOENT")) throw error;
  }
}

/** Removes a template's files; VMs that were started from it have what they need. "Already gone" is success. */
export function removeTemplate(folders: StateFolders, key: string): void {
  const doomed = join(folders.data, "templates", `${gonePrefix}${key}`);
  try {
    renameSync(templatePaths(folders, key).folder, doomed);
  } catch (error) {
    if (!isErrnoException(error, "ENOENT")) throw error;
  }
  rmSync(doomed, { recursive: true, force: true });
}

/** Removes templates that were not used for long, and all but the last used few; also what a maker, or a remover, left that has died. Returns the keys. */
export function pruneTemplates(folders: StateFolders, options: { readonly all?: boolean } = {}): string[] {
  const oldest = Date.now() - maxAgeMs;
  const doomed = listTemplates(folders).filter(({ lastUsedUnixMs }, index) => options.all === true || index >= maxTemplates || lastUsedUnixMs < oldest).map(({ template }) => template.key);
  for (const key of doomed) removeTemplate(folders, key);
  for (const name of namesIn(join(folders.data, "templates"))) {
    const abandoned = name.startsWith(draftPrefix) && !isFlocked(templatePaths(folders, name.slice(draftPrefix.length)).makerLock);
    if (abandoned || name.startsWith(gonePrefix) || name === damagedName) rmSync(join(folders.data, "templates", name), { recursive: true, force: true });
  }
  return doomed;
}

/** Gives a clone its copy of the prepared container's writable layer. A failure leaves no file. @throws RuntimeError `data_loss` (reason `template_corrupt`). */
export async function copyPreparedLayer(folders: StateFolders, { key, layer }: Template, to: string): Promise<void> {
  try {
    const { hash } = await copyWhole(templatePaths(folders, key).layer, to, layer?.pieces);
    if (hash !== layer?.hash) throw savedVmCorrupt(key, "its container's writable layer");
  } catch (error) {
    rmSync(to, { force: true });
    throw error;
  }
}

async function copyWhole(from: string, to: string, known?: readonly MemoryPiece[]): Promise<NonNullable<Template["layer"]>> {
  const source = openSync(from, "r");
  try {
    const target = openSync(to, "wx", 0o600);
    try {
      const { size } = fstatSync(source);
      const { hash, pieces } = await copyMemory(source, target, size, known);
      return { bytes: size, hash, pieces };
    } finally {
      closeSync(target);
    }
  } finally {
    closeSync(source);
  }
}

/** Copies a disk's file; holes stay holes, and where the file system can, the copy shares what it holds. */
export async function copySparse(from: string, to: string, options: WaitOptions = {}): Promise<void> {
  await runProcess("cp", ["--sparse=always", "--reflink=auto", "--", from, to], { timeoutMs: copyTimeoutMs, ...options });
}

/** Makes sure that the files of a folder are on the disk: what is written after this says that they are whole. */
export function syncFiles(folder: string): void {
  for (const name of readdirSync(folder)) syncPath(join(folder, name));
}

/** SHA-256, hexadecimal. */
export function hashState(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function sizeOf(path: string): number {
  return existsSync(path) ? statSync(path).size : -1;
}

function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
