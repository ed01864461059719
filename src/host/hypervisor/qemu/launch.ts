import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { startProcess, type ManagedProcess } from "../../../shared/linux/run-process.ts";
import { listenUnix } from "../../../shared/linux/unix-socket.ts";
import type { ResourceKind } from "../../store/ledger.ts";
import { endTaggedProcesses, taggedEnvironment, type TaggedProcessRecord } from "../../store/tagged-process.ts";
import type { DevicesAtStart } from "../virtual-machine.ts";
import { firstExtraFd, qemuArguments, type QemuConfig } from "./arguments.ts";
import { findQemu } from "./find-qemu.ts";
import { openDisk } from "./open-disk.ts";

/** How a VMM process is set apart from the rest of the host. */
export interface Confinement {
  /** Undefined: our own user (not root). */
  readonly user: { readonly uid: number; readonly gid: number } | undefined;
  /** Supplementary groups, e.g. kvm's for /dev/kvm. */
  readonly groups: readonly number[];
  /** A cgroup.procs file to put the process into; undefined: our own cgroup. */
  readonly cgroupProcs: string | undefined;
  /** Path of a network namespace; undefined: an empty one of its own (as root), or ours. */
  readonly netns: string | undefined;
}

/** What is needed to start QEMU. */
export interface VmmSpec {
  /** Without what is plugged, which is told below. */
  readonly config: Omit<QemuConfig, "vcpus" | "disks" | "nics">;
  /** What a saved VM had plugged, for one that is restored. Shares cannot be restored. */
  readonly plugged: DevicesAtStart;
  /** A connected stream socket for each NIC that is to have somebody at its other end. */
  readonly nicFds: ReadonlyMap<string, number>;
  readonly confinement: Confinement;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly rootImagePath: string;
  /** The guest's memory when `config.memorySource` is `descriptor`; it stays open here. */
  readonly memoryFd?: number;
  /** Sockets we make and QEMU gets as descriptors. */
  readonly sockets: { readonly qmp: string; readonly control: string; readonly data: string; readonly console: string };
  /** QEMU's own messages. */
  readonly logPath: string;
}

/** Ledger record of a VMM. */
export type VmmRecord = TaggedProcessRecord & { readonly kind: "vmm" };

/** The record of a sandbox's VMM before it runs. */
export function planVmm(sandboxId: string): VmmRecord {
  return { kind: "vmm", name: "vmm", token: `${sandboxId}/vmm`, identity: undefined };
}

/** Of the descriptors a child is given beside its stdio. */
const firstFd = 3;
/** QEMU ends at SIGTERM within milliseconds unless it is stuck; then it is killed. */
const endGraceMs = 2_000;

/** The VMM process of a sandbox. */
export const vmmKind: ResourceKind<VmmSpec, VmmRecord, ManagedProcess> = {
  kind: "vmm",
  plan: ({ config }) => planVmm(config.sandboxId),
  act: async (record, spec, note) => {
    const vmm = await startVmm(record, spec);
    note({ ...record, identity: vmm.identity });
    return vmm;
  },
  release: (record) => endTaggedProcesses(record, endGraceMs),
};

async function startVmm(record: VmmRecord, spec: VmmSpec): Promise<ManagedProcess> {
  // Looked for here: of a program that is missing, the last one of a chain could only tell by its exit code.
  const program = findQemu();
  const fds: number[] = [];
  const hold = (fd: number): number => {
    fds.push(fd);
    return fd;
  };
  try {
    const { sockets } = spec;
    const log = hold(openSync(spec.logPath, "a", 0o600));
    // In the order of qemuFds: the child numbers them from 3 on.
    const handed: (number | "ignore")[] = [
      ...[sockets.qmp, sockets.control, sockets.data, sockets.console].map((path) => hold(listenUnix(path))),
      hold(openGuestFile(spec.rootImagePath)),
      spec.memoryFd ?? "ignore",
      ...(spec.config.incoming ? [] : [spec.kernelPath, spec.initramfsPath].map((path) => hold(openGuestFile(path)))),
    ];
    while (handed.length < firstExtraFd - firstFd) handed.push("ignore");
    const give = (fd: number): number => handed.push(fd) - 1 + firstFd;
    const disks = spec.plugged.disks.map((disk) => {
      const fd = hold(openDisk(disk));
      return { ...disk, fd: give(fd), isBlockDevice: fstatSync(fd).isBlockDevice() };
    });
    const nics = spec.plugged.nics.map((nic) => {
      const fd = spec.nicFds.get(nic.nicId);
      return { ...nic, fd: fd === undefined ? undefined : give(fd) };
    });
    const { file, args } = confine(spec.confinement, program, qemuArguments({ ...spec.config, vcpus: spec.plugged.vcpus, disks, nics }));
    return await startProcess(file, args, { env: taggedEnvironment(record.token), cwd: "/", stdio: ["ignore", log, log, ...handed] });
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

function openGuestFile(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY);
  } catch (error) {
    throw new RuntimeError("failed_precondition", `open guest file "${path}"`, { cause: error, reason: "guest_image_missing", hint: "the guest image is made again by the next run" });
  }
}

/** The command line that starts a program apart from the host: every program in the chain executes the next, so the pid stays. */
export function confine(confinement: Confinement, program: string, args: readonly string[]): { file: string; args: string[] } {
  const { user, groups, cgroupProcs, netns } = confinement;
  const chain: string[][] = [];
  if (cgroupProcs !== undefined) chain.push(["sh", "-c", 'echo $$ >"$0" && exec "$@"', cgroupProcs]);
  if (user !== undefined) {
    if (netns !== undefined) chain.push(["nsenter", `--net=${netns}`, "--"]);
    chain.push(["unshare", "--mount", "--ipc", "--uts", ...(netns === undefined ? ["--net"] : []), "--"]);
    chain.push(["setpriv", `--reuid=${user.uid}`, `--regid=${user.gid}`, groups.length === 0 ? "--clear-groups" : `--groups=${groups.join(",")}`, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]);
  }
  const [file = program, ...rest] = [...chain.flat(), program, ...args];
  return { file, args: rest };
}

