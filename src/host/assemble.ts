import { createHash } from "node:crypto";
import { closeSync, statSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { join } from "node:path";
import { RuntimeError, isErrnoException } from "../shared/base/errors.ts";
import { createMemoryFile } from "../shared/linux/memfd.ts";
import type { connectAgent } from "./agent-client/agent-client.ts";
import { kernelCommandLine } from "./guest-image/guest-image.ts";
import { hostKey } from "./hypervisor/qemu/accelerator.ts";
import { qemuArguments } from "./hypervisor/qemu/arguments.ts";
import { planVmm, vmmKind, type Confinement, type VmmRecord, type VmmSpec } from "./hypervisor/qemu/launch.ts";
import { QemuMachine, pluggableMemoryBytes } from "./hypervisor/qemu/qemu-machine.ts";
import { nothingPlugged, type Accelerator, type DevicesAtStart } from "./hypervisor/virtual-machine.ts";
import { addressSlotKind, defaultSlotRange, parseSlotRange } from "./network/address-slot.ts";
import { loopbackGuardKind } from "./network/loopback-guard.ts";
import { passtKind, planPasst, startUserNetwork } from "./network/passt.ts";
import type { RestoreRequest, SandboxDrivers } from "./sandbox/drivers.ts";
import { bootMemoryBytes, memoryStepBytes, type SandboxClone, type SandboxConfig } from "./sandbox/sandbox-config.ts";
import { shareFolderKind, shareMountKind } from "./storage/shares/share-mount.ts";
import { FolderShares, shareFolders, type SharesRequest } from "./storage/shares/shares.ts";
import { virtiofsdKind } from "./storage/shares/virtiofsd.ts";
import { releaserOf, type ResourceRecord, type ResourceReleaser } from "./store/ledger.ts";
import { isRootful, sandboxPaths, snapshotPaths, templatePaths, type StateFolders } from "./store/paths.ts";
import { savedRecordReleasers } from "./store/saved-records.ts";
import { sandboxUserKind, type SandboxUser } from "./store/sandbox-user.ts";
import { copyPart } from "./hypervisor/guest-memory.ts";
import { readSnapshot, snapshotMemory, type Snapshot } from "./template/snapshot-store.ts";
import { openMemory, openTemplateMemory, type HeldMemory } from "./template/template-memory.ts";
import { openSavedState, readTemplate, setTemplateAside, type Template } from "./template/template-store.ts";

/** A restored guest answers within 0.1 s under emulation. Where making the template took longer than this, everything does. */
const leastRestoreTimeoutMs = 10_000;

/** The drivers of this kind of machine: QEMU, passt, virtiofsd. The only place that names them. */
export const drivers: SandboxDrivers = {
  async claimUser(config, ledger, undo) {
    return isRootful() ? ledger.plan((plan) => plan(sandboxUserKind, { folder: usersFolder(config.folders), sandboxId: config.sandboxId })).take(undo) : undefined;
  },
  async bootVm(config, user, ledger, undo, wait, memoryFd) {
    const memory = memoryFd === undefined ? {} : { memoryMode: "shared", memorySource: "descriptor" } as const;
    return QemuMachine.boot({ ...vmmSpec(config, user), config: { ...qemuConfig(config), ...memory }, memoryFd }, consolePath(config), ledger, undo, wait);
  },
  async restoreVm(request) {
    const { config } = request;
    if (config.clone !== undefined) return restoreSnapshot(readSnapshot(config.folders, config.clone.snapshot), config.clone, request);
    const template = config.template === undefined ? undefined : readTemplate(config.folders, config.template);
    if (template === undefined) throw new RuntimeError("not_found", `template "${config.template ?? ""}" is not there`, { reason: "template_not_found", hint: "`casemate template ls` lists them" });
    try {
      return await restoreTemplate(template, request);
    } catch (error) {
      if (RuntimeError.is(error, "data_loss")) setTemplateAside(config.folders, template.key);
      throw error;
    }
  },
  restoreTimeoutMs({ folders, template }) {
    const { madeInMs = 0 } = template === undefined ? {} : readTemplate(folders, template) ?? {};
    return Math.max(leastRestoreTimeoutMs, madeInMs);
  },
  async connectAgent(config, wait) {
    return (await loadAgentClient()).connectAgent(sandboxPaths(config.folders, config.sandboxId), wait);
  },
  async startNetwork(config, user, ledger, undo, steps) {
    return startUserNetwork({
      sandboxId: config.sandboxId,
      sandboxFolder: sandboxPaths(config.folders, config.sandboxId).folder,
      slotFolder: slotFolder(config.folders),
      range: parseSlotRange(defaultSlotRange),
      user,
      ports: config.ports,
    }, ledger, undo, steps.part("set up network"));
  },
  shares(config, ledger) {
    return new FolderShares(sharesRequest(config), ledger);
  },
  planned(config) {
    return plannedRecords(config.folders, config.sandboxId, config);
  },
  async adoptVm(config, startedBy, ledger, wait) {
    const { identity } = (ledger.find("vmm", "vmm") as VmmRecord | undefined) ?? {}; // planned by vmmKind
    const { sockets } = vmmSpec(config, undefined);
    const { vm, paused, pluggedMemoryBytes: pluggedBytes, vcpuCount, disks } = await QemuMachine.adopt({ config: { ...qemuConfig(config), incoming: startedBy === "template" }, sockets }, identity, consolePath(config), wait);
    return { vm, paused, size: { memoryBytes: bootMemoryBytes + pluggedBytes, vcpuCount }, disks };
  },
  adoptShares(config, ledger) {
    return FolderShares.adopt(sharesRequest(config), ledger);
  },
  releaseAll(ledger) {
    return ledger.releaseAll(releasers);
  },
};

/** The client of the agent, whose protocol takes 10 ms to load: who starts a VM does it while the VM starts. */
export async function loadAgentClient(): Promise<{ readonly connectAgent: typeof connectAgent }> {
  return import("./agent-client/agent-client.ts");
}

/** Which accelerator this kind of machine has. */
export { chooseAccelerator } from "./hypervisor/qemu/accelerator.ts";

/** Everything that can be given back with nothing but its record. */
export const releasers: readonly ResourceReleaser[] = [
  releaserOf(vmmKind), releaserOf(passtKind), releaserOf(loopbackGuardKind), releaserOf(addressSlotKind),
  releaserOf(virtiofsdKind), releaserOf(shareMountKind), releaserOf(shareFolderKind), releaserOf(sandboxUserKind),
  ...savedRecordReleasers,
];

/** The records of everything a sandbox of that id can hold, in the order it is taken; a kind that its configuration does without is harmless. */
export function plannedRecords(folders: StateFolders, sandboxId: string, config: Pick<SandboxConfig, "shares" | "network"> = { shares: true, network: "user" }): ResourceRecord[] {
  const paths = sandboxPaths(folders, sandboxId);
  const helper = { sandboxId, sandboxFolder: paths.folder };
  return [
    ...(isRootful() ? [sandboxUserKind.plan({ folder: usersFolder(folders), sandboxId })] : []),
    ...(config.shares ? [shareFolderKind.plan(shareFolders(paths.share)), virtiofsdKind.plan({ ...helper, sharePath: paths.share })] : []),
    ...(config.network === "none" ? [] : [addressSlotKind.plan({ folder: slotFolder(folders), sandboxId, range: parseSlotRange(defaultSlotRange) })]),
    ...(config.network === "none" ? [] : [planPasst(helper)]),
    planVmm(sandboxId),
  ];
}

function sharesRequest({ folders, sandboxId }: SandboxConfig): SharesRequest {
  const { folder, share } = sandboxPaths(folders, sandboxId);
  return { sandboxId, sandboxFolder: folder, sharePath: share };
}

function usersFolder(folders: StateFolders): string {
  return join(folders.run, "users");
}

function slotFolder(folders: StateFolders): string {
  return join(folders.run, "network-slots");
}

async function restoreTemplate(template: Template, request: RestoreRequest): Promise<QemuMachine> {
  const { config: { folders, prepared }, wait } = request;
  const { state } = templatePaths(folders, template.key);
  const disks = template.plugged.disks.map((disk) => ({ ...disk, path: prepared?.disks.find(({ diskId }) => diskId === disk.diskId)?.path ?? disk.path }));
  return restoreSaved({ memory: await openTemplateMemory(folders, template, wait), memoryBytes: template.memoryBytes, plugged: { ...template.plugged, disks }, openState: () => openSavedState(template.key, state, template.stateHash) }, request);
}

async function restoreSnapshot(snapshot: Snapshot, clone: SandboxClone, request: RestoreRequest): Promise<QemuMachine> {
  const { config: { folders }, wait } = request;
  const { state } = snapshotPaths(folders, snapshot.name);
  const disks = snapshot.plugged.disks.map((disk) => {
    const file = clone.disks.find(({ diskId }) => diskId === disk.diskId);
    if (file === undefined) throw new RuntimeError("data_loss", `snapshot "${snapshot.name}": no file for disk "${disk.diskId}"`, { reason: "template_corrupt", hint: "make the snapshot anew" });
    return { ...disk, path: file.path };
  });
  return restoreSaved({ memory: await openMemory(snapshotMemory(folders, snapshot), wait), memoryBytes: snapshot.memoryBytes, plugged: { ...snapshot.plugged, disks }, openState: () => openSavedState(snapshot.name, state, snapshot.stateHash) }, request);
}

/** A VM that was saved, opened. */
interface SavedVm {
  readonly memory: HeldMemory;
  readonly memoryBytes: number;
  readonly plugged: DevicesAtStart;
  readonly openState: () => number;
}

async function restoreSaved({ memory, memoryBytes, plugged, openState }: SavedVm, { config, user, ledger, undo, wait, memoryFd, nic }: RestoreRequest): Promise<QemuMachine> {
  undo.add("use of the saved memory", () => closeSync(memory.useFd));
  const fds = [memory.fd];
  const hold = (fd: number): number => {
    fds.push(fd);
    return fd;
  };
  try {
    // Memory that somebody else maps or that is to be saved again is a copy of the VM's own.
    const own = memoryFd ?? (config.shares ? hold(createMemoryFile("casemate-guest", memoryBytes)) : undefined);
    if (own !== undefined) await copyPart(memory.fd, { from: 0, end: memoryBytes }, own, 0);
    const qemu = { ...qemuConfig(config), memoryMode: own === undefined ? "private" : "shared", memorySource: "descriptor", incoming: true } as const;
    const nicFds = new Map(nic === undefined ? [] : plugged.nics.map(({ nicId }) => [nicId, nic.fd]));
    return await QemuMachine.restore({ ...vmmSpec(config, user), config: qemu, plugged, nicFds, memoryFd: own ?? memory.fd }, () => hold(openState()), consolePath(config), ledger, undo, wait);
  } finally {
    for (const fd of fds) closeSync(fd); // QEMU has its own
  }
}

function qemuConfig(config: Pick<SandboxConfig, "sandboxId" | "accelerator" | "shares" | "pristine">): VmmSpec["config"] {
  return {
    sandboxId: config.sandboxId,
    accelerator: config.accelerator,
    bootMemoryBytes,
    pluggableMemoryBytes: pluggableMemoryBytes(totalmem(), memoryStepBytes),
    memoryMode: config.shares ? "shared" : "private",
    memorySource: "anonymous",
    incoming: false,
    generation: config.pristine === true ? "kept" : "new",
    maxVcpus: availableParallelism(),
    commandLine: kernelCommandLine(config.accelerator === "tcg"),
  };
}

function vmmSpec(config: SandboxConfig, user: SandboxUser | undefined): Omit<VmmSpec, "config"> {
  const paths = sandboxPaths(config.folders, config.sandboxId);
  return {
    plugged: nothingPlugged,
    nicFds: new Map(),
    confinement: confinementOf(user),
    kernelPath: config.kernelPath,
    initramfsPath: config.initramfsPath,
    rootImagePath: config.rootImagePath,
    sockets: { qmp: paths.qmpSocket, control: paths.controlSocket, data: paths.dataSocket, console: paths.consoleSocket },
    logPath: paths.vmmLog,
  };
}

function consolePath(config: SandboxConfig): string {
  return sandboxPaths(config.folders, config.sandboxId).console;
}

/** All about the VMM and this host that a saved VM depends on, as text. */
export function machineFacts(accelerator: Accelerator): string {
  return [...qemuArguments({ ...qemuConfig({ sandboxId: "", accelerator, shares: false }), ...nothingPlugged, nics: [], disks: [] }), hostKey()].join("\n");
}

/** {@link machineFacts} as a hash. */
export function machineKey(accelerator: Accelerator): string {
  return createHash("sha256").update(machineFacts(accelerator)).digest("hex").slice(0, 32);
}

function confinementOf(user: SandboxUser | undefined): Confinement {
  return { user, groups: user === undefined ? [] : kvmGroup(), cgroupProcs: undefined, netns: undefined };
}

/** The group that may open /dev/kvm, if there is one that is not everybody's. */
function kvmGroup(): number[] {
  try {
    const { gid } = statSync("/dev/kvm");
    return gid === 0 ? [] : [gid];
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return [];
    throw error;
  }
}
