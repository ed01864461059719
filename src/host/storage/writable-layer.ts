import { existsSync, mkdirSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { kernelRandomBytes } from "../../shared/linux/random.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import type { StateFolders } from "../store/paths.ts";
import { storageError } from "../store/storage-error.ts";

/** Most a container can write beside its image when the configuration says nothing; the file is as large as what was written. */
export const defaultLayerBytes = 10 * 1024 * 1024 * 1024;
/** Smaller than this ext4 has no room for its journal. */
const minLayerBytes = 64 * 1024 * 1024;
const layerStepBytes = 1024 * 1024;
/** Part of the base's name: raise it when {@link mkfsArgs} change, and old bases are made no use of. */
const baseVersion = 1;
/** Making a base takes some 10 ms and copying it 5; a slow, full disk is given its time. */
const toolTimeoutMs = 60_000;

/** Options of {@link ensureWritableLayer}. */
export interface LayerOptions extends WaitOptions {
  /** Size of the file system, whole MiB. Default {@link defaultLayerBytes}. */
  readonly maxBytes?: number;
}

/**
 * Makes sure that a container has its writable layer: a sparse file with an empty ext4 file system,
 * copied from a base that is formatted once. What is there already stays as it is. The host never
 * mounts it: the guest is its only writer, and a file system is no format to trust.
 */
export async function ensureWritableLayer(folders: StateFolders, path: string, options: LayerOptions = {}): Promise<void> {
  if (existsSync(path)) return;
  try {
    const base = await ensureBase(join(folders.data, "cache", "writable-layers"), checkSize(options.maxBytes ?? defaultLayerBytes), options);
    // Holes stay holes; where the file system can, not even the 100 KiB of metadata are copied.
    await makeFile(path, (draft) => runProcess("cp", ["--sparse=always", "--reflink=auto", "--", base, draft], limited(options)));
  } catch (error) {
    throw storageError(error, `make writable layer "${path}"`);
  }
}

/** mkfs.ext4's arguments, without the file. */
export function mkfsArgs(): string[] {
  return [
    "-q", "-F",
    // A journal, because a killed VM must find its files again; small, because it is written in a circle and so bounds what the file grows by.
    "-J", "size=16",
    // The file is new and sparse: zeros are there already, and need not be written by mkfs or later by the guest.
    "-E", "discard,lazy_itable_init=1,lazy_journal_init=1,packed_meta_blocks=1",
    // Never grown, and nothing to keep back for root: every user of it is root's.
    "-O", "^resize_inode", "-m", "0",
  ];
}

async function ensureBase(folder: string, sizeBytes: number, options: WaitOptions): Promise<string> {
  const base = join(folder, `v${baseVersion}-${sizeBytes / layerStepBytes}MiB.ext4`);
  if (existsSync(base)) return base;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  await makeFile(base, async (draft) => {
    writeFileSync(draft, "", { mode: 0o600 });
    truncateSync(draft, sizeBytes);
    await runProcess("mkfs.ext4", [...mkfsArgs(), draft], limited(options));
  });
  return base;
}

/** Makes a file under another name first: whoever sees the path sees it whole. Of two makers the later one wins, with the same content. */
async function makeFile(path: string, make: (draft: string) => Promise<unknown>): Promise<void> {
  const draft = join(dirname(path), `.${basename(path)}-${kernelRandomBytes(6).toString("hex")}`);
  try {
    await make(draft);
    renameSync(draft, path);
  } finally {
    rmSync(draft, { force: true });
  }
}

function limited(options: WaitOptions): WaitOptions {
  return { ...options, timeoutMs: Math.min(options.timeoutMs ?? Infinity, toolTimeoutMs) };
}

function checkSize(maxBytes: number): number {
  if (!Number.isSafeInteger(maxBytes) || maxBytes < minLayerBytes || maxBytes % layerStepBytes !== 0) {
    throw new RuntimeError("invalid_argument", `size of ${maxBytes} bytes: must be whole MiB, at least ${minLayerBytes / layerStepBytes}`);
  }
  return maxBytes;
}
