import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeError } from "../../shared/base/errors.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import type { StateFolders } from "../store/paths.ts";
import { extractKernel } from "./extract-kernel.ts";

/** A kernel unpacked in our cache: never installed, since that would run boot loader hooks on the user's machine. */
export interface UnpackedKernel {
  readonly release: string;
  /** Uncompressed ELF. */
  readonly vmlinux: string;
  /** The folder that holds kernel/ and modules.dep. */
  readonly modules: string;
}

/** Debian's names by Node's name of the CPU: the one place that differs on arm64. */
const debianArch: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64" };
/** A package of some 70 MB over a slow line. */
const downloadTimeoutMs = 15 * 60_000;
const unpackTimeoutMs = 5 * 60_000;

/** The newest kernel in the cache, or else Debian's current full kernel, fetched and unpacked. */
export async function ensureKernel(folders: StateFolders, onProgress: (what: string) => void): Promise<UnpackedKernel> {
  return cachedKernel(folders) ?? await fetchKernel(folders, onProgress);
}

/** The newest unpacked kernel; undefined when there is none. */
export function cachedKernel(folders: StateFolders): UnpackedKernel | undefined {
  const cache = kernelCache(folders);
  const names = existsSync(cache) ? readdirSync(cache).filter((name) => !name.startsWith(".")) : [];
  // Making a collator takes 5 ms, which every start would wait for.
  const newest = names.length < 2 ? names[0] : names.toSorted(new Intl.Collator("en", { numeric: true }).compare).at(-1);
  return newest === undefined ? undefined : unpackedKernel(join(cache, newest));
}

function kernelCache(folders: StateFolders): string {
  return join(folders.data, "guest/kernels");
}

function unpackedKernel(folder: string): UnpackedKernel {
  const [release] = readdirSync(join(folder, "lib/modules"));
  if (release === undefined) throw new RuntimeError("data_loss", `kernel "${folder}": holds no modules`, { reason: "kernel_corrupt", hint: `remove "${folder}"; it is fetched again` });
  return { release, vmlinux: join(folder, "vmlinux"), modules: join(folder, "lib/modules", release) };
}

async function fetchKernel(folders: StateFolders, onProgress: (what: string) => void): Promise<UnpackedKernel> {
  const cache = kernelCache(folders);
  mkdirSync(cache, { recursive: true });
  const temporary = mkdtempSync(join(cache, ".new-"));
  try {
    onProgress("fetching Debian's kernel package");
    const { stdout } = await runProcess("apt-cache", ["depends", `linux-image-${debianArch[process.arch] ?? process.arch}`], { timeoutMs: unpackTimeoutMs }).catch(noPackageLists);
    const name = /Depends: (linux-image-\S+)/.exec(stdout.toString())?.[1];
    if (name === undefined) return noPackageLists(new Error("apt-cache names no kernel package"));
    await runProcess("apt-get", ["download", "-o", "APT::Sandbox::User=root", name], { cwd: temporary, timeoutMs: downloadTimeoutMs }).catch(noPackageLists);
    const [archive] = readdirSync(temporary);
    if (archive === undefined) return noPackageLists(new Error("apt-get download left no file"));
    onProgress("unpacking the kernel");
    await runProcess("dpkg-deb", ["-x", join(temporary, archive), temporary], { timeoutMs: unpackTimeoutMs });
    rmSync(join(temporary, archive));
    const [release = ""] = readdirSync(join(temporary, "lib/modules"));
    await writeFile(join(temporary, "vmlinux"), await extractKernel(await readFile(join(temporary, `boot/vmlinuz-${release}`)), name));
    await runProcess("depmod", ["-b", temporary, release], { timeoutMs: unpackTimeoutMs });
    for (const unused of ["usr", `boot/vmlinuz-${release}`, `boot/System.map-${release}`]) rmSync(join(temporary, unused), { recursive: true, force: true });
    const folder = join(cache, archive.replace(/\.deb$/, ""));
    rmSync(folder, { recursive: true, force: true });
    renameSync(temporary, folder);
    return unpackedKernel(folder);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

function noPackageLists(error: unknown): never {
  throw new RuntimeError("failed_precondition", "fetch Debian's kernel package", { cause: error, reason: "kernel_missing", hint: "run `apt-get update` as root and try again" });
}
