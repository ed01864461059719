import type { Accelerator, DiskSpec, NicSpec, PortSpec, PluggedVcpu } from "../virtual-machine.ts";

/** What QEMU is started with; everything else is plugged later. */
export interface QemuConfig {
  readonly sandboxId: string;
  readonly accelerator: Accelerator;
  readonly bootMemoryBytes: number;
  /** Most memory that can be plugged; reserved in the guest's address space, not taken. */
  readonly pluggableMemoryBytes: number;
  /** `shared`: other processes (virtiofsd) can map the guest's memory, and what the guest writes is seen by all. Cannot change later. */
  readonly memoryMode: "private" | "shared";
  /** `anonymous`: empty, QEMU's own. `descriptor`: a file that is handed over; private memory is then a copy-on-write view of it. */
  readonly memorySource: "anonymous" | "descriptor";
  /** Do not boot: wait for a saved state (QEMU's `-incoming defer`). Kernel and initramfs are not needed then. */
  readonly incoming: boolean;
  /** The guest's kernel draws new random numbers when it goes on with another one (vmgenid): `new` each time, or `kept`, by a VM that is to be saved again. */
  readonly generation: "new" | "kept";
  readonly maxVcpus: number;
  /** What a saved VM had plugged is there from the start of the restored one. */
  readonly vcpus: readonly PluggedVcpu[];
  readonly disks: readonly DiskAtStart[];
  readonly nics: readonly NicAtStart[];
  readonly commandLine: string;
}

/** A disk that a saved VM had plugged: it must be there, in the same place, when the state is loaded. */
export interface DiskAtStart extends Pick<DiskSpec, "diskId" | "format" | "readOnly"> {
  readonly lun: number;
  /** Number of its descriptor in the QEMU process. */
  readonly fd: number;
  readonly isBlockDevice: boolean;
}

/** A network interface that a saved VM had plugged; without a descriptor nobody is at its other end. */
export interface NicAtStart extends Pick<NicSpec, "nicId" | "macAddress"> {
  readonly port: number;
  readonly fd: number | undefined;
}

/** Numbers that descriptors have in the QEMU process, in the order they are handed over; what a VM does not need is /dev/null. */
export const qemuFds = { qmp: 3, control: 4, data: 5, console: 6, rootImage: 7, memory: 8, kernel: 9, initramfs: 10 } as const;

/** The first number after those above, for disks and NICs that are there from the start. */
export const firstExtraFd = 11;
/** Set 1 is the root image's; a disk that is plugged later gets a set after those of the first ones. */
export const firstDiskFdSet = 2;

/** Root ports for NICs and shares. Disks go on the SCSI controller. */
export const rootPortCount = 4;
export const scsiControllerId = "scsi0";
export const pluggableMemoryId = "vmem0";
/** How QEMU names the agent's ports in its events. */
export const agentPortIds = ["control-port", "data-port"] as const;
const serialControllerId = "serial0";
/** The number of a virtio-serial port that is plugged at run time; 0 is a console's, 1 and 2 are the agent's. */
const pluggedPortNumber = 3;
export const controlPortName = "casemate.control";
export const dataPortName = "casemate.data";

/** What differs between CPU architectures; the only place that does. */
const architectures: Readonly<Record<string, { readonly program: string; readonly machine: string; readonly cpu: Readonly<Record<Accelerator, string>> }>> = {
  // Told that `rep movsb` is fast, a kernel copies by it; emulated, it takes one turn a byte. Without, it copies by words: three times the throughput of a port.
  x64: { program: "qemu-system-x86_64", machine: "q35", cpu: { tcg: "max,-erms", kvm: "host" } },
  arm64: { program: "qemu-system-aarch64", machine: "virt", cpu: { tcg: "max", kvm: "host" } },
};
const architecture = architectures[process.arch] ?? { program: "qemu-system-x86_64", machine: "q35", cpu: { tcg: "max", kvm: "host" } };

/** Of VMs that become templates; nobody else has it. */
const keptGeneration = "00000000-0000-0000-0000-000000000000";

/** QEMU's program for this host's CPU. */
export const qemuProgram = architecture.program;

/** How the accelerator is named to QEMU; also for the probe. */
export function acceleratorArguments(accelerator: Accelerator): string[] {
  // 256 MiB of translated code is enough for Node in the guest; less slows it.
  return ["-accel", accelerator === "kvm" ? "kvm" : "tcg,thread=multi,tb-size=256", "-cpu", architecture.cpu[accelerator]];
}

/** QEMU's argument list. A pure function: no file, clock or process is looked at. */
export function qemuArguments(config: QemuConfig): string[] {
  return [
    "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
    "-name", `casemate-${config.sandboxId}`,
    // No helper is ever started by QEMU, and its uid never changes: it has its own from the start.
    "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ...acceleratorArguments(config.accelerator),
    ...machineArguments(config),
    ...(config.incoming ? incomingArguments : bootArguments(config)),
    ...deviceArguments(config),
    ...config.vcpus.flatMap((vcpu) => ["-device", JSON.stringify(vcpu)]),
    ...config.disks.flatMap(diskArguments),
    ...config.nics.flatMap(nicArguments),
  ];
}

/** What is loaded is the devices' state alone, which has no section with the machine's name before it. */
const incomingArguments = ["-incoming", "defer", "-global", "migration.send-configuration=off"];

function machineArguments(config: QemuConfig): string[] {
  const mebibytes = (bytes: number): string => `${Math.ceil(bytes / (1024 * 1024))}M`;
  const total = config.bootMemoryBytes + config.pluggableMemoryBytes;
  const share = config.memoryMode === "shared" ? "on" : "off";
  const anonymous = config.memoryMode === "shared" ? "memory-backend-memfd,share=on" : "memory-backend-ram";
  const ram = config.memorySource === "descriptor" ? `memory-backend-file,mem-path=/proc/self/fd/${qemuFds.memory},share=${share}` : anonymous;
  return [
    "-machine", `${architecture.machine},memory-backend=ram0,vmport=off,smbus=off,sata=off,usb=off`,
    "-smp", `1,maxcpus=${config.maxVcpus}`,
    "-m", config.pluggableMemoryBytes > 0 ? `${mebibytes(config.bootMemoryBytes)},maxmem=${mebibytes(total)}` : mebibytes(config.bootMemoryBytes),
    "-object", `${ram},id=ram0,size=${mebibytes(config.bootMemoryBytes)}`,
    // Pluggable memory is a promise only: it is not reserved on the host before the guest is given it. What QEMU makes
    // of `unplugged-inaccessible` by itself depends on the back end, and a saved VM may be restored with another one.
    ...(config.pluggableMemoryBytes > 0 ? ["-object", `${anonymous},id=vmem-backend,size=${mebibytes(config.pluggableMemoryBytes)},reserve=off`, "-device", `virtio-mem-pci,id=${pluggableMemoryId},memdev=vmem-backend,requested-size=0,unplugged-inaccessible=on`] : []),
  ];
}

function bootArguments(config: QemuConfig): string[] {
  return ["-kernel", `/proc/self/fd/${qemuFds.kernel}`, "-initrd", `/proc/self/fd/${qemuFds.initramfs}`, "-append", config.commandLine];
}

function deviceArguments({ generation }: QemuConfig): string[] {
  const socket = (id: string, fd: number): string[] => ["-chardev", `socket,id=${id},fd=${fd},server=on,wait=off`];
  return [
    ...socket("qmp", qemuFds.qmp), "-mon", "chardev=qmp,mode=control",
    ...socket("console", qemuFds.console), "-serial", "chardev:console",
    "-add-fd", `fd=${qemuFds.rootImage},set=1`,
    "-blockdev", "driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=/dev/fdset/1",
    "-device", "virtio-blk-pci,drive=root",
    "-device", `virtio-serial-pci,id=${serialControllerId},max_ports=${pluggedPortNumber + 1}`,
    ...socket("control", qemuFds.control), "-device", `virtserialport,id=${agentPortIds[0]},bus=${serialControllerId}.0,nr=1,chardev=control,name=${controlPortName}`,
    ...socket("data", qemuFds.data), "-device", `virtserialport,id=${agentPortIds[1]},bus=${serialControllerId}.0,nr=2,chardev=data,name=${dataPortName}`,
    "-device", `virtio-scsi-pci,id=${scsiControllerId}`,
    "-device", "virtio-rng-pci",
    "-device", `vmgenid,guid=${generation === "new" ? "auto" : keptGeneration}`,
    "-device", "pvpanic-pci",
    ...Array.from({ length: rootPortCount }, (_, index) => ["-device", `pcie-root-port,id=port${index},chassis=${index + 1},slot=${index + 1}`]).flat(),
  ];
}

/** A disk's back end, as QMP and the command line take it. */
export function diskNode(disk: Pick<DiskSpec, "diskId" | "format" | "readOnly">, fdSet: number, isBlockDevice: boolean): Readonly<Record<string, unknown>> {
  const discard = disk.readOnly ? {} : { discard: "unmap" };
  return {
    driver: disk.format, "node-name": diskNodeName(disk.diskId), "read-only": disk.readOnly, ...discard,
    file: { driver: isBlockDevice ? "host_device" : "file", filename: `/dev/fdset/${fdSet}`, ...discard },
  };
}

/** Name of a disk's back end. */
export function diskNodeName(diskId: string): string {
  return `node-${diskId}`;
}

/** A disk's front end, as QMP and the command line take it. */
export function diskDevice(diskId: string, lun: number): Readonly<Record<string, unknown>> {
  return { driver: "scsi-hd", id: diskId, bus: `${scsiControllerId}.0`, channel: 0, "scsi-id": 0, lun, drive: diskNodeName(diskId), serial: diskId };
}

/** Name of a NIC's back end. */
export function netdevName(nicId: string): string {
  return `netdev-${nicId}`;
}

/** A NIC's front end. */
export function nicDevice({ nicId, macAddress }: Pick<NicSpec, "nicId" | "macAddress">, port: number, hasBackend: boolean): Readonly<Record<string, unknown>> {
  return { driver: "virtio-net-pci", id: nicId, bus: `port${port}`, mac: macAddress, ...(hasBackend && { netdev: netdevName(nicId) }) };
}

/** A port's front end. */
export function portDevice({ portId, name }: Pick<PortSpec, "portId" | "name">, chardev: string): Readonly<Record<string, unknown>> {
  return { driver: "virtserialport", id: portId, bus: `${serialControllerId}.0`, nr: pluggedPortNumber, chardev, name };
}

function diskArguments(disk: DiskAtStart, index: number): string[] {
  const fdSet = firstDiskFdSet + index;
  return [
    "-add-fd", `fd=${disk.fd},set=${fdSet}`,
    "-blockdev", JSON.stringify(diskNode(disk, fdSet, disk.isBlockDevice)),
    "-device", JSON.stringify(diskDevice(disk.diskId, disk.lun)),
  ];
}

function nicArguments(nic: NicAtStart): string[] {
  return [
    ...(nic.fd === undefined ? [] : ["-netdev", `socket,id=${netdevName(nic.nicId)},fd=${nic.fd}`]),
    "-device", JSON.stringify(nicDevice(nic, nic.port, nic.fd !== undefined)),
  ];
}
