import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { release } from "node:os";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import { SyscallError, call, callAsync, errno } from "../../shared/linux/libc.ts";

/** What the first answer needs; virtio_pci, virtio_blk and erofs came with the initramfs. */
export const modulesForTheChannel = ["virtio_console"] as const;
/** What containers, disks and networks need; loaded behind the first answers, most wanted first. */
const laterModules = ["virtio_scsi", "sd_mod", "ext4", "overlay", "virtio_net", "virtiofs", "virtio_rng", "vmgenid", "virtio_mem", "pvpanic", "pvpanic_pci", "9p", "9pnet_virtio", "squashfs", "ptp_kvm"] as const;

/** Loads the rest. One that fails is logged: whatever needs it says so by itself. Never rejects. */
export async function loadLaterModules(modules: ModuleIndex, log: Logger): Promise<void> {
  for (const name of laterModules) {
    try {
      await modules.load(name);
    } catch (error) {
      log.info("kernel module not loaded", { module: name, error: describeError(error) });
    }
  }
}

const SYS_finit_module = process.arch === "arm64" ? 273 : 313;
const MODULE_INIT_COMPRESSED_FILE = 4;

/** Kernel modules by name and what they need, as depmod(8) lists them. */
export class ModuleIndex {
  readonly #folder: string;
  readonly #files: ReadonlyMap<string, readonly string[]>;

  private constructor(folder: string, files: ReadonlyMap<string, readonly string[]>) {
    this.#folder = folder;
    this.#files = files;
  }

  /** Of the running kernel; empty when the image has no modules because the kernel has all built in. */
  static open(folder = `/lib/modules/${release()}`): ModuleIndex {
    const file = `${folder}/modules.dep`;
    return new ModuleIndex(folder, existsSync(file) ? parseModulesDep(readFileSync(file, "utf8")) : new Map());
  }

  /** Loads a module and what it needs; on the thread pool, because a driver's start takes its time. Unknown names are built in. */
  async load(name: string): Promise<void> {
    for (const { path, args } of this.#calls(name)) await withFile(path, (fd) => callAsync(finitModule, SYS_finit_module, fd, "", args));
  }

  /** The same at once; for what the first answer needs. */
  loadNow(name: string): void {
    for (const { path, args } of this.#calls(name)) withFileNow(path, (fd) => call(finitModule, SYS_finit_module, fd, "", args));
  }

  #calls(name: string): { path: string; args: number }[] {
    return (this.#files.get(canonical(name)) ?? []).map((file) => ({ path: `${this.#folder}/${file}`, args: /\.ko$/.test(file) ? 0 : MODULE_INIT_COMPRESSED_FILE }));
  }
}

const finitModule = "long syscall(long, int, const char *, long)";

/**
 * Parses modules.dep: `path: needed needed ...`, where what is needed first comes last. The result
 * lists, for each name, the files in the order to load them.
 */
export function parseModulesDep(text: string): Map<string, string[]> {
  return new Map(text.split("\n").filter((line) => line.includes(":")).map((line): [string, string[]] => {
    const [file = "", needed = ""] = line.split(/:\s*/, 2);
    return [canonical(file), [...needed.split(/\s+/).filter((part) => part !== "").reverse(), file]];
  }));
}

/** Module names use "_" where file names may have "-". */
function canonical(path: string): string {
  return (path.split("/").at(-1) ?? path).replace(/\.ko(\.\w+)?$/, "").replaceAll("-", "_");
}

async function withFile(path: string, load: (fd: number) => Promise<number>): Promise<void> {
  const fd = openSync(path, "r");
  try {
    await load(fd);
  } catch (error) {
    rethrowUnlessLoaded(error, path);
  } finally {
    closeSync(fd);
  }
}

function withFileNow(path: string, load: (fd: number) => number): void {
  const fd = openSync(path, "r");
  try {
    load(fd);
  } catch (error) {
    rethrowUnlessLoaded(error, path);
  } finally {
    closeSync(fd);
  }
}

/** EEXIST: loaded already, by the initramfs or by its device's appearance. */
function rethrowUnlessLoaded(error: unknown, path: string): void {
  if (!(error instanceof SyscallError) || error.errno !== errno.EEXIST) throw RuntimeError.wrap(error, `load kernel module "${path}"`);
}
