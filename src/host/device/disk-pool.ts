import type { WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { DiskSpec, PluggedDisk, VirtualMachine } from "../hypervisor/virtual-machine.ts";

interface PooledDisk {
  readonly diskId: string;
  /** Who holds it; it is unplugged when the last one lets go. */
  holders: number;
  readonly plugged: Promise<PluggedDisk>;
}

/** A disk held by one container. */
export interface HeldDisk extends PluggedDisk {
  readonly diskId: string;
  readonly path: string;
}

/**
 * The disks plugged into one VM. A read-only image that several containers use is plugged once; the
 * VMM is called only when the first one comes and when the last one goes.
 */
export class DiskPool {
  readonly #vm: Pick<VirtualMachine, "plugDisk" | "unplug">;
  readonly #disks = new Map<string, PooledDisk>();
  /** Ids of disks that are about to be plugged, by path. */
  readonly #planned = new Map<string, string>();
  #nextNumber: number;

  /** `firstNumber`: ids begin with it. */
  constructor(vm: Pick<VirtualMachine, "plugDisk" | "unplug">, firstNumber = 0) {
    this.#vm = vm;
    this.#nextNumber = firstNumber;
  }

  /** The id that the disk of that path has, or will have when it is taken. */
  plan(path: string): string {
    const diskId = this.#disks.get(path)?.diskId ?? this.#planned.get(path) ?? `disk${this.#nextNumber++}`;
    this.#planned.set(path, diskId);
    return diskId;
  }

  /**
   * Counts holders from the time of an earlier owner, or none yet of a disk that a saved VM had plugged.
   * `plugged` is where the guest finds it, undefined when it was never plugged.
   */
  adopt(path: string, diskId: string, plugged: PluggedDisk | undefined, holders = 1): void {
    const disk = this.#disks.get(path) ?? { diskId, holders: 0, plugged: plugged === undefined ? notPlugged(path) : Promise.resolve(plugged) };
    disk.holders += holders;
    this.#disks.set(path, disk);
    this.#nextNumber = Math.max(this.#nextNumber, 1 + Number(/^disk(\d+)$/.exec(diskId)?.[1] ?? -1));
  }

  /** Plugs the disk, or counts one more holder of it. */
  async take(disk: Omit<DiskSpec, "diskId">, options: WaitOptions): Promise<HeldDisk> {
    let pooled = this.#disks.get(disk.path);
    if (pooled === undefined) {
      const diskId = this.plan(disk.path);
      this.#planned.delete(disk.path);
      pooled = { diskId, holders: 0, plugged: this.#vm.plugDisk({ ...disk, diskId }, options) };
      this.#disks.set(disk.path, pooled);
    }
    pooled.holders++;
    try {
      return { ...await pooled.plugged, diskId: pooled.diskId, path: disk.path };
    } catch (error) {
      await this.release(disk.path, options);
      throw error;
    }
  }

  /** Lets go of a disk; "not there" is success. */
  async release(path: string, options: WaitOptions = {}): Promise<void> {
    const pooled = this.#disks.get(path);
    if (pooled === undefined || --pooled.holders > 0) return;
    this.#disks.delete(path);
    await this.#vm.unplug(pooled.diskId, options);
  }
}

function notPlugged(path: string): Promise<PluggedDisk> {
  const failure = Promise.reject<PluggedDisk>(new RuntimeError("failed_precondition", `disk "${path}" is being taken back`));
  failure.catch(() => { /* only of interest to somebody who takes it meanwhile */ });
  return failure;
}
