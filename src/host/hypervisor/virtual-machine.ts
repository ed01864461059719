import type { WaitOptions } from "../../shared/base/deadline.ts";
import type { ProcessExit } from "../../shared/linux/run-process.ts";
import type { ProcessIdentity } from "../../shared/linux/proc.ts";

/** What runs the guest's instructions. `tcg` is emulation: it works everywhere and is slow, and its isolation is QEMU's own. */
export type Accelerator = "kvm" | "tcg";

/** A disk to plug into a running VM. */
export interface DiskSpec {
  /** Unique in the VM; letters, digits and dashes, at most 31. */
  readonly diskId: string;
  /** Host path of the file or block device; opened by us and handed over as a descriptor. */
  readonly path: string;
  readonly format: "raw" | "qcow2";
  readonly readOnly: boolean;
}

/** Where the guest finds a plugged disk. */
export interface PluggedDisk {
  /** Kata's address for the storage driver `scsi`: `0:LUN`. */
  readonly scsiAddress: string;
}

/** The address of the disk with that number on the VM's one controller, as Kata's agent has it: target and LUN. */
export function scsiAddress(lun: number): string {
  return `0:${lun}`;
}

/** A network interface to plug: QEMU connects its back end to a unix stream socket (passt's protocol). */
export interface NicSpec {
  readonly nicId: string;
  /** `02:...`: locally administered. */
  readonly macAddress: string;
  /** A connected stream socket, handed over as a descriptor. */
  readonly fd: number;
}

/** A shared folder to plug: QEMU talks vhost-user to a virtiofsd. */
export interface ShareSpec {
  readonly shareId: string;
  /** Tag the guest mounts by, at most 36 bytes. */
  readonly tag: string;
  /** A connected vhost-user socket, handed over as a descriptor. */
  readonly fd: number;
}

/** A virtio-serial port to plug, whose host end is a socket that QEMU listens on: a byte pipe between whoever connects there and the guest. */
export interface PortSpec {
  readonly portId: string;
  /** By which the guest finds it. */
  readonly name: string;
  /** A listening stream socket, handed over as a descriptor. */
  readonly fd: number;
}

/** A vCPU beside the first: the driver, an id and where it sits, in QEMU's words. */
export type PluggedVcpu = Readonly<Record<string, unknown>> & { readonly driver: string };

/** What is plugged into a VM beyond what every VM has, and where. Plain data: with the disks' paths it is enough to start a saved VM again. */
export interface PluggedDevices {
  readonly disks: readonly (Omit<DiskSpec, "path"> & { readonly lun: number })[];
  readonly nics: readonly (Pick<NicSpec, "nicId" | "macAddress"> & { readonly port: number })[];
  readonly shares: readonly (Pick<ShareSpec, "shareId" | "tag"> & { readonly port: number })[];
  readonly vcpus: readonly PluggedVcpu[];
}

/** The same with the disks' files. */
export type DevicesAtStart = Omit<PluggedDevices, "disks"> & { readonly disks: readonly (DiskSpec & { readonly lun: number })[] };

/** A VM as it boots. */
export const nothingPlugged: DevicesAtStart = { disks: [], nics: [], shares: [], vcpus: [] };

/** Where a running VM is written to. */
export interface CaptureTarget {
  /** An empty file for the devices, open for writing alone. */
  readonly stateFd: number;
  /** An empty file in memory; what was plugged is behind what the VM booted with. */
  readonly memoryFd: number;
  /** Done while the guest stands still; its disks do not change meanwhile. */
  readonly whilePaused: () => Promise<void>;
  /** Let the guest go on afterwards. */
  readonly goOn: boolean;
}

/** What a capture cost. */
export interface CaptureResult {
  /** Bytes of memory that this VM had written itself. */
  readonly touchedBytes: number;
  /** How long the guest stood still. */
  readonly pauseMs: number;
}

/** Why and how a VM ended. */
export interface VmExit {
  readonly process: ProcessExit;
  /** `powered_off`: the guest's own orderly end; `reset`: it rebooted, or its CPU gave up (a triple fault); `panicked`: pvpanic; `died`: anything else. */
  readonly reason: "powered_off" | "reset" | "panicked" | "died";
  /** The last lines of the guest's console, at most 4 KiB, for error messages. */
  readonly consoleTail: string;
}

/** The most a VM can have, decided when it was started. */
export interface VmLimits {
  /** Boot memory and what can be plugged. */
  readonly memoryBytes: number;
  readonly vcpuCount: number;
}

/**
 * A running VM. Everything a container needs is plugged here after the VM is up, so that one VM can
 * serve any container. Implementations bound every wait; a guest cannot hold a caller.
 */
export interface VirtualMachine {
  readonly accelerator: Accelerator;
  readonly identity: ProcessIdentity;
  readonly startedBy: "cold" | "template";
  readonly limits: VmLimits;
  /** The last lines of the guest's console, at most 4 KiB, for error messages. */
  readonly consoleTail: string;
  /** Resolves within milliseconds of the VMM's end; never rejects. */
  readonly exited: Promise<VmExit>;
  plugDisk(disk: DiskSpec, options?: WaitOptions): Promise<PluggedDisk>;
  plugNic(nic: NicSpec, options?: WaitOptions): Promise<void>;
  plugShare(share: ShareSpec, options?: WaitOptions): Promise<void>;
  /** There is room for one. It is no part of what {@link describePlugged} tells: a saved VM has none. */
  plugPort(port: PortSpec, options?: WaitOptions): Promise<void>;
  /** Takes back what was plugged under that id; "not there" is success. */
  unplug(id: string, options?: WaitOptions): Promise<void>;
  /** Adds vCPUs until there are that many; they are never taken away (QEMU 7.2 crashes). The agent has to bring them online. */
  growVcpus(vcpuCount: number, options?: WaitOptions): Promise<void>;
  /** Sets the size of the pluggable memory; total memory is boot memory plus this. Multiple of 2 MiB. More is there when this returns; less is given back in the guest's own time. */
  resizeMemory(pluggedBytes: number, options?: WaitOptions): Promise<void>;
  /** Calls back when the guest has taken or given back memory. */
  onMemoryResized(listener: () => void): void;
  pause(options?: WaitOptions): Promise<void>;
  resume(options?: WaitOptions): Promise<void>;
  /** All that is plugged. */
  describePlugged(options?: WaitOptions): Promise<PluggedDevices>;
  /** Writes the VM's state, without its memory, to a descriptor: that is a file of the caller's, and nothing was plugged. `disconnect` lets go of the agent; the VM is paused when the guest has seen that. */
  save(stateFd: number, disconnect: () => void, options?: WaitOptions): Promise<void>;
  /** Writes a running VM's memory and devices, and goes on. It must have no shares: they cannot be restored. */
  capture(target: CaptureTarget, options?: WaitOptions): Promise<CaptureResult>;
  /** Ends the VMM: `quit` by its monitor, then SIGTERM, then SIGKILL, within about 5 s. Any state, any number of times. */
  kill(): Promise<void>;
  /** Forgets the VM without touching it (the owner is going, the workload stays). */
  close(): void;
}
