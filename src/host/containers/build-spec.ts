import type { OciMount, OciProcess, OciResources, RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import type { TmpfsMount } from "../store/container-settings.ts";
import { sharedPidNamespace } from "../sandbox/guest-spec.ts";
import type { ContainerRecord } from "../store/container-store.ts";
import type { PodRecord } from "../store/pod-store.ts";
import { mergeEnv } from "./container-options.ts";
import { defaultHostname } from "./names.ts";

/** The capabilities docker gives a container (moby's default list). */
const defaultCapabilities = [
  "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
  "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
];

/** Every capability of Linux 6.1 (capabilities(7)), for --privileged: root in the guest, which is the sandbox itself. */
const allCapabilities = [
  ...defaultCapabilities, "CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE", "CAP_DAC_READ_SEARCH",
  "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_NET_ADMIN", "CAP_NET_BROADCAST",
  "CAP_PERFMON", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO",
  "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
];

/** Kernel interfaces docker hides from, or shows read-only to, an unprivileged container (moby's default lists). */
const maskedPaths = ["/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"];
const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/** docker's default set for a search path when the image names none. */
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/** CFS period, microseconds (kernel: Documentation/scheduler/sched-bwc.rst); docker's default. */
const cpuPeriodMicros = 100_000;

/** The OCI config of a container made by our own front ends: what docker would make of the same options, inside the guest. */
export function buildSpec(record: ContainerRecord, pod?: PodRecord): RunnableSpec {
  const { settings = {} } = record;
  return {
    ociVersion: "1.0.2",
    process: {
      terminal: record.terminal,
      // The agent replaces it: record.user is a name or number that only the image can resolve.
      user: { uid: 0, gid: 0, ...(settings.groupAdd && { additionalGids: [...settings.groupAdd] }) },
      args: [...record.entrypoint, ...record.command],
      env: withDefaults(record),
      cwd: record.workingDir === "" ? "/" : record.workingDir,
      ...processRights(record, record.privileged),
    },
    root: { path: "rootfs", readonly: record.readOnlyRootfs },
    mounts: [...systemMounts(record.privileged, pod === undefined ? settings.shmBytes ?? defaultShmBytes : undefined), ...(settings.tmpfs ?? []).map(tmpfsMount), ...record.volumes.map(volumeMount)],
    ...(settings.annotations && { annotations: { ...settings.annotations } }),
    linux: {
      // The VM is the boundary of network and host name, so the container shares the guest's: they can be
      // given to a guest that was saved with the container in it. A pod's containers share IPC as well.
      namespaces: [pod?.sharePid === true ? { type: "pid", path: sharedPidNamespace } : { type: "pid" }, ...(pod === undefined ? [{ type: "ipc" }] : []), { type: "mount" }, { type: "cgroup" }],
      resources: {
        devices: record.privileged ? [{ allow: true, access: "rwm" }] : allowedDevices,
        ...toResources(record),
      },
      ...(settings.sysctls && { sysctl: { ...settings.sysctls } }),
      ...(!record.privileged && { maskedPaths, readonlyPaths }),
    },
  };
}

/** What a caller says about a further process. */
export interface ExecOptions {
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly terminal: boolean;
  readonly privileged: boolean;
  /** Undefined: the container's. */
  readonly workingDir: string | undefined;
}

/** A further process of a container: its environment, folder and rights, unless the caller says otherwise. */
export function buildExecProcess(record: ContainerRecord, options: ExecOptions): OciProcess {
  return {
    terminal: options.terminal,
    user: { uid: 0, gid: 0, ...(record.settings?.groupAdd && { additionalGids: [...record.settings.groupAdd] }) }, // the agent replaces it, as for the container's first process
    args: [...options.args],
    env: mergeEnv(withDefaults({ ...record, terminal: options.terminal }), options.env),
    cwd: options.workingDir ?? (record.workingDir === "" ? "/" : record.workingDir),
    ...processRights(record, record.privileged || options.privileged),
  };
}

/** A process in the guest itself, outside all containers; default: a shell. */
export function buildVmProcess(options: ExecOptions): OciProcess {
  return {
    terminal: options.terminal,
    user: { uid: 0, gid: 0 },
    args: options.args.length > 0 ? [...options.args] : ["/bin/sh"],
    env: mergeEnv([defaultPath, "HOME=/root", ...(options.terminal ? ["TERM=xterm"] : [])], options.env),
    cwd: options.workingDir ?? "/",
  };
}

function withDefaults(record: ContainerRecord): string[] {
  const has = (name: string): boolean => record.env.some((entry) => entry.startsWith(`${name}=`));
  return [
    ...(has("PATH") ? [] : [defaultPath]),
    // docker sets it always; but a container that was made before its name is known cannot have it.
    ...(has("HOSTNAME") || record.hostname === defaultHostname(record.containerId) ? [] : [`HOSTNAME=${record.hostname}`]),
    ...(record.terminal && !has("TERM") ? ["TERM=xterm"] : []),
    ...record.env,
  ];
}

/** Capabilities, limits and the like, of the first process and of every other. */
function processRights(record: ContainerRecord, privileged: boolean): Pick<OciProcess, "capabilities" | "rlimits" | "noNewPrivileges"> {
  const { capAdd = [], capDrop = [], ulimits, noNewPrivileges = false } = record.settings ?? {};
  const names = (list: readonly string[]): readonly string[] => (list.includes("ALL") ? allCapabilities : list);
  // docker's order: ALL dropped leaves what is added; a name that is added and dropped is dropped.
  const base = privileged ? allCapabilities : capDrop.includes("ALL") ? [] : defaultCapabilities;
  const dropped = privileged || capDrop.includes("ALL") ? [] : capDrop;
  const capabilities = [...new Set([...base, ...names(capAdd)])].filter((name) => !dropped.includes(name));
  return {
    capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    noNewPrivileges,
    ...(ulimits && { rlimits: ulimits.map(({ name, soft, hard }) => ({ type: `RLIMIT_${name.toUpperCase()}`, soft: unlimited(soft), hard: unlimited(hard) })) }),
  };
}

/** RLIM_INFINITY has all 64 bits set, which no number of JavaScript has: the largest that crun reads as written is as good. */
function unlimited(limit: number): number {
  return limit === -1 ? Number.MAX_SAFE_INTEGER : limit;
}

function toResources({ memoryBytes, cpus, settings = {} }: ContainerRecord): Pick<OciResources, "memory" | "cpu" | "pids"> {
  const { cpuShares, cpuset, memorySwapBytes, memoryReservationBytes, pidsLimit } = settings;
  const memory = { ...(memoryBytes > 0 && { limit: memoryBytes }), ...(memorySwapBytes !== undefined && { swap: memorySwapBytes }), ...(memoryReservationBytes !== undefined && { reservation: memoryReservationBytes }) };
  const cpu = { ...(cpus > 0 && { period: cpuPeriodMicros, quota: Math.round(cpus * cpuPeriodMicros) }), ...(cpuShares !== undefined && { shares: cpuShares }), ...(cpuset !== undefined && { cpus: cpuset }) };
  return {
    ...(Object.keys(memory).length > 0 && { memory }),
    ...(Object.keys(cpu).length > 0 && { cpu }),
    ...(pidsLimit !== undefined && { pids: { limit: pidsLimit } }),
  };
}

const defaultShmBytes = 64 * 1024 * 1024;

/** `shmBytes` undefined: the sandbox's own /dev/shm, shared with the others. */
function systemMounts(privileged: boolean, shmBytes: number | undefined): OciMount[] {
  const access = privileged ? "rw" : "ro";
  return [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
    { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", access] },
    { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: [access, "nosuid", "noexec", "nodev"] },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
    shmBytes === undefined ? { destination: "/dev/shm", type: "bind", source: "/dev/shm", options: ["rbind", "rprivate", "nosuid", "noexec", "nodev"] }
      : { destination: "/dev/shm", type: "tmpfs", source: "shm", options: ["nosuid", "noexec", "nodev", "mode=1777", `size=${shmBytes}`] },
  ];
}

/** docker's defaults, which the user's options come after. */
function tmpfsMount({ destination, options }: TmpfsMount): OciMount {
  return { destination, type: "tmpfs", source: "tmpfs", options: ["nosuid", "nodev", "noexec", ...options] };
}

/** A host source: the owner puts it on the sandbox's share and rewrites the source to the guest's path. */
function volumeMount(volume: ContainerRecord["volumes"][number]): OciMount {
  return { destination: volume.destination, type: "bind", source: volume.source, options: ["rbind", "rprivate", volume.readOnly ? "ro" : "rw"] };
}

/** docker's device allow list: the harmless character devices, and making any node without being able to open it. */
const allowedDevices = [
  { allow: false, access: "rwm" },
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
  ...([[1, 3], [1, 5], [1, 7], [1, 8], [1, 9], [5, 0], [5, 1], [5, 2]] as const).map(([major, minor]) => ({ allow: true, type: "c", major, minor, access: "rwm" })),
  { allow: true, type: "c", major: 136, access: "rwm" },
];
