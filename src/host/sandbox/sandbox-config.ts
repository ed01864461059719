import { memoryFor } from "../../shared/base/guest-memory.ts";
import type { Accelerator } from "../hypervisor/virtual-machine.ts";
import type { PublishRequest } from "../store/container-store.ts";
import type { ResourceRecord } from "../store/ledger.ts";
import type { StateFolders } from "../store/paths.ts";

/** What an owner needs to know to make its sandbox; written by the front end before the owner starts (file sandbox.json). */
export interface SandboxConfig {
  readonly version: 1;
  readonly sandboxId: string;
  readonly folders: StateFolders;
  readonly hostname: string;
  readonly accelerator: Accelerator;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly rootImagePath: string;
  /** Memory of the VM after start: boot memory plus what is plugged. */
  readonly memoryBytes: number;
  readonly vcpuCount: number;
  /** Most the sandbox may grow to; undefined: what the host can give. */
  readonly maxMemoryBytes?: number;
  readonly maxVcpuCount?: number;
  /** Containers of this sandbox may see host folders; decides the kind of guest memory, which cannot change later. */
  readonly shares: boolean;
  readonly network: "none" | "user";
  readonly ports: readonly PublishRequest[];
  /** Of a pod: when the sandbox ends by itself. Undefined: as its containers' options say. */
  readonly ending?: "last" | "first" | "stop";
  /** Key of the template to start from; undefined: boot cold. */
  readonly template?: string | undefined;
  /** The container that waits in the template, when there is one. */
  readonly prepared?: PreparedClone | undefined;
  /** This sandbox goes on from a snapshot. */
  readonly clone?: SandboxClone | undefined;
  /** This sandbox becomes a template itself: it is given no identity, network or size of its own, and no new random numbers. */
  readonly pristine?: boolean | undefined;
  /** Longest start. Default {@link defaultStartTimeoutMs}. */
  readonly startTimeoutMs?: number;
  /** Ask the guest where the time of its calls goes. */
  readonly timings?: boolean;
  /** Log at debug level. */
  readonly debug: boolean;
}

/** Longest start when nobody says otherwise. A cold boot under emulation on a busy machine takes some 20 s. */
export const defaultStartTimeoutMs = 120_000;

/** A sandbox that goes on where another one was when it was saved. */
export interface SandboxClone {
  /** Name of the snapshot. */
  readonly snapshot: string;
  /** The file of every disk it has plugged. */
  readonly disks: readonly { readonly diskId: string; readonly path: string }[];
  /** Memory it has beyond what a VM boots with. */
  readonly pluggedBytes: number;
  /** Its containers' names in the snapshot, and here. */
  readonly containerIds: Readonly<Record<string, string>>;
  /** Its containers and execs under their names here. */
  readonly records: readonly ResourceRecord[];
  /** A program is about to take a lease of it: when none comes, the program has gone, and the sandbox goes too. */
  readonly leaseExpected?: boolean;
}

/** A container that was made before the VM was saved, as this sandbox takes it over. */
export interface PreparedClone {
  /** Its name in the saved guest. */
  readonly preparedId: string;
  /** Its name from now on. */
  readonly containerId: string;
  readonly guestPid: number;
  readonly streamId: number;
  /** Its disks, with this clone's own copy of the writable layer. */
  readonly disks: readonly { readonly diskId: string; readonly lun: number; readonly path: string }[];
}

/**
 * Memory every VM boots with; what a sandbox needs beyond it is plugged. As much as a container without a
 * limit gets, so that nothing is plugged for most: what a guest does not touch takes no memory of the
 * host, and plugging would cost a tenth of a start.
 */
export const bootMemoryBytes = 1024 * 1024 * 1024;
/** Plugged memory grows in these steps (virtio-mem's block size on x86_64 with 4 KiB pages is 2 MiB; 128 MiB keeps the guest's memory blocks whole). */
export const memoryStepBytes = 128 * 1024 * 1024;
/** Memory of a sandbox whose containers name no limit. */
export const defaultMemoryBytes = bootMemoryBytes;

/** Memory of the VM for a container limit (0: none), in whole steps. */
export function sandboxMemoryBytes(containerLimitBytes: number): number {
  const wanted = containerLimitBytes === 0 ? defaultMemoryBytes : memoryFor(containerLimitBytes);
  return Math.max(bootMemoryBytes, Math.ceil(wanted / memoryStepBytes) * memoryStepBytes);
}
