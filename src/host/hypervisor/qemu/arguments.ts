import type { Accelerator } from "../virtual-machine.ts";

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
  readonly maxVcpus: number;
  readonly commandLine: string;
}

/** Numbers that descriptors have in the QEMU process, in the order they are handed over; what a VM does not need is /dev/null. */
export const qemuFds = { qmp: 3, control: 4, data: 5, console: 6, rootImage: 7, memory: 8, kernel: 9, initramfs: 10 } as const;

/** Root ports for NICs and shares. Disks go on the SCSI controller. */
export const rootPortCount = 4;
export const scsiControllerId = "scsi0";
export const pluggableMemoryId = "vmem0";
export const controlPortName = "casemate.control";
export const dataPortName = "casemate.data";

/** What differs between CPU architectures; the only place that does. */
const architectures: Readonly<Record<string, { readonly program: string; readonly machine: string; readonly cpu: Readonly<Record<Accelerator, string>> }>> = {
  x64: { program: "qemu-system-x86_64", machine: "q35", cpu: { tcg: "max", kvm: "host" } },
  arm64: { program: "qemu-system-aarch64", machine: "virt", cpu: { tcg: "max", kvm: "host" } },
};
const architecture = architectures[process.arch] ?? { program: "qemu-system-x86_64", machine: "q35", cpu: { tcg: "max", kvm: "host" } };

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
    ...(config.incoming ? ["-incoming", "defer"] : bootArguments(config)),
    ...deviceArguments(),
  ];
}

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

function deviceArguments(): string[] {
  const socket = (id: string, fd: number): string[] => ["-chardev", `socket,id=${id},fd=${fd},server=on,wait=off`];
  return [
    ...socket("qmp", qemuFds.qmp), "-mon", "chardev=qmp,mode=control",
    ...socket("console", qemuFds.console), "-serial", "chardev:console",
    "-add-fd", `fd=${qemuFds.rootImage},set=1`,
    "-blockdev", "driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=/dev/fdset/1",
    "-device", "virtio-blk-pci,drive=root",
    "-device", "virtio-serial-pci,id=serial0,max_ports=4",
    ...socket("control", qemuFds.control), "-device", `virtserialport,bus=serial0.0,nr=1,chardev=control,name=${controlPortName}`,
    ...socket("data", qemuFds.data), "-device", `virtserialport,bus=serial0.0,nr=2,chardev=data,name=${dataPortName}`,
    "-device", `virtio-scsi-pci,id=${scsiControllerId}`,
    "-device", "virtio-rng-pci",
    "-device", "vmgenid,guid=auto",
    "-device", "pvpanic-pci",
    ...Array.from({ length: rootPortCount }, (_, index) => ["-device", `pcie-root-port,id=port${index},chassis=${index + 1},slot=${index + 1}`]).flat(),
  ];
}
