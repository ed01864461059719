import type { WaitOptions } from "../../shared/base/deadline.ts";
import type { Steps } from "../../shared/base/steps.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { ConnectOptions } from "../agent-client/transport.ts";
import type { NicSpec, PluggedDisk, ShareSpec, VirtualMachine } from "../hypervisor/virtual-machine.ts";
import type { GuestNetwork } from "../network/guest-network.ts";
import type { PublishedPort } from "../store/container-store.ts";
import type { Ledger, ResourceRecord } from "../store/ledger.ts";
import type { SandboxUser } from "../store/sandbox-user.ts";
import type { SandboxConfig } from "./sandbox-config.ts";
import type { SandboxSize } from "./sandbox-size.ts";

/** A sandbox's network as a driver made it. */
export interface SandboxNetwork {
  readonly nic: NicSpec;
  readonly guest: GuestNetwork;
  readonly ports: readonly PublishedPort[];
  /** Things the user should know, e.g. that there is no uplink. */
  readonly warnings: readonly string[];
}

/** The sandbox's one shared folder. */
export interface SandboxShares {
  readonly shareId: string;
  /** Where the guest mounts it, once. */
  readonly guestMountPoint: string;
  /** True while the guest has it and may rely on it; set to false before it is taken away. Of a sandbox that was taken over: while a container shows something. */
  serving: boolean;
  /** Resolves when its server has ended while the guest had it, also after the VM's end; what the guest asks of it then hangs. Never rejects. */
  readonly lost: Promise<unknown>;
  /** Starts its server; the device is to be plugged, and mounted. The undo also ends any later server. */
  serve(undo: UndoStack): Promise<ShareSpec>;
  /** Ends its server, which the guest must not need any more. None is fine. */
  withdraw(): Promise<void>;
  /** Makes a host file or folder visible; the result is its path in the guest. */
  add(name: string, source: string, readOnly: boolean, undo: UndoStack): Promise<string>;
  /** The ledger's record of what {@link add} makes. */
  plan(name: string): ResourceRecord;
  remove(name: string): Promise<void>;
}

/** A VM whose owner has died, and what it says of itself. */
export interface AdoptedVm {
  readonly vm: VirtualMachine;
  readonly paused: boolean;
  readonly size: SandboxSize;
  /** Disks that are plugged, by id. */
  readonly disks: ReadonlyMap<string, PluggedDisk>;
}

/** What a saved VM is started with. */
export interface RestoreRequest {
  readonly config: SandboxConfig;
  readonly user: SandboxUser | undefined;
  readonly ledger: Ledger;
  readonly undo: UndoStack;
  readonly wait: WaitOptions;
  /** A file to use as the guest's memory, shared with us. */
  readonly memoryFd?: number | undefined;
  /** Who is at the other end of a NIC that the saved VM has. */
  readonly nic?: NicSpec | undefined;
}

/** How one kind of machine makes what a sandbox is built of. host/assemble.ts puts the concrete ones together. */
export interface SandboxDrivers {
  /** The user that the VMM and its helpers run as; undefined: our own. */
  claimUser(config: SandboxConfig, ledger: Ledger, undo: UndoStack): Promise<SandboxUser | undefined>;
  /** `memoryFd`: a file to use as the guest's memory, shared with us. */
  bootVm(config: SandboxConfig, user: SandboxUser | undefined, ledger: Ledger, undo: UndoStack, wait: WaitOptions, memoryFd?: number): Promise<VirtualMachine>;
  /** Starts the VM from the template or the snapshot that the config names; the guest runs on when this returns. */
  restoreVm(request: RestoreRequest): Promise<VirtualMachine>;
  /** A guest from the config's template that has not answered by then hangs. */
  restoreTimeoutMs(config: SandboxConfig): number;
  connectAgent(config: SandboxConfig, wait: ConnectOptions): Promise<AgentClient>;
  /** `steps`: of the operation it is part of. */
  startNetwork(config: SandboxConfig, user: SandboxUser | undefined, ledger: Ledger, undo: UndoStack, steps: Steps): Promise<SandboxNetwork>;
  /** Nothing is done yet. */
  shares(config: SandboxConfig, ledger: Ledger): SandboxShares;
  /** The records of all that a sandbox of that configuration takes, in order, before any of it is taken. */
  planned(config: SandboxConfig): ResourceRecord[];
  /** Takes over the VM of an owner that has died. @throws RuntimeError `unavailable` (reason `vmm_died`) when it is gone. */
  adoptVm(config: SandboxConfig, startedBy: VirtualMachine["startedBy"], ledger: Ledger, wait: WaitOptions): Promise<AdoptedVm>;
  adoptShares(config: SandboxConfig, ledger: Ledger): SandboxShares;
  /** Gives back everything in the ledger. Returns the failures; never throws. */
  releaseAll(ledger: Ledger): Promise<unknown[]>;
}
