import type { WaitOptions } from "../../shared/base/deadline.ts";
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
  #nextNumber = 0;

  constructor(vm: Pick<VirtualMachine, "plugDisk" | "unplug">) {
    this.#vm = vm;
  }

  /** Plugs the disk, or counts one more holder of it. */
  async take(disk: Omit<DiskSpec, "diskId">, options: WaitOptions): Promise<HeldDisk> {
    let pooled = this.#disks.get(disk.path);
    if (pooled === undefined) {
      const diskId = `disk${this.#nextNumber++}`;
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
