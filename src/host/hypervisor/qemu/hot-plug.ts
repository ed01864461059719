import { closeSync, fstatSync } from "node:fs";
import { eventually, orAbandon, type WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";
import { scsiAddress, type DevicesAtStart, type DiskSpec, type NicSpec, type PluggedDevices, type PluggedDisk, type PortSpec, type ShareSpec } from "../virtual-machine.ts";
import { readPlugged } from "./read-plugged.ts";
import { diskDevice, diskNode, diskNodeName, firstDiskFdSet, netdevName, nicDevice, pluggableMemoryId, portDevice, rootPortCount, type QemuConfig } from "./arguments.ts";
import { openDisk } from "./open-disk.ts";

/** A guest may refuse to give a device back; then it goes with the VM. */
const unplugTimeoutMs = 10_000;
/** A guest under emulation takes a gigabyte in 0.1 s. */
const growTimeoutMs = 10_000;

/** What was plugged under an id, and how to take it out of QEMU's back ends. */
interface Plugged {
  readonly port: number | undefined;
  readonly lun: number | undefined;
  readonly removeBackend: () => Promise<unknown>;
}

/** How a device with a descriptor is plugged: the back end first, which takes the descriptor, then the device. */
interface DeviceWithFd {
  readonly addBackend: (fdName: string) => Promise<unknown>;
  readonly device: Readonly<Record<string, unknown>>;
  readonly removeBackend: () => Promise<unknown>;
}

/** The same on one of the root ports. */
type PortDevice = Omit<DeviceWithFd, "device"> & { readonly device: (port: number) => DeviceWithFd["device"] };

/** What is plugged into a running QEMU and taken back. A plug that fails leaves nothing in QEMU. */
export class HotPlug {
  readonly #qmp: QmpClient;
  readonly #memoryMode: QemuConfig["memoryMode"];
  readonly #pluggableMemoryBytes: number;
  readonly #plugged = new Map<string, Plugged>();
  readonly #unplugging = new Map<string, Promise<void>>();
  #nextFdSet = firstDiskFdSet;
  readonly #fdSetsAtStart: number[] = [];
  #vmEnded = false;

  constructor(qmp: QmpClient, config: Pick<QemuConfig, "memoryMode" | "pluggableMemoryBytes">) {
    this.#qmp = qmp;
    this.#memoryMode = config.memoryMode;
    this.#pluggableMemoryBytes = config.pluggableMemoryBytes;
  }

  /** A QEMU that was started with these devices plugged. */
  static startedWith(qmp: QmpClient, config: Pick<QemuConfig, "memoryMode" | "pluggableMemoryBytes">, { disks, nics }: DevicesAtStart): HotPlug {
    const hotPlug = new HotPlug(qmp, config);
    for (const { diskId, lun } of disks) {
      hotPlug.#noteDisk(diskId, lun);
      hotPlug.#fdSetsAtStart.push(hotPlug.#nextFdSet++);
    }
    for (const { nicId, port } of nics) hotPlug.#plugged.set(nicId, { port, lun: undefined, removeBackend: () => hotPlug.#removeNetdev(nicId) });
    return hotPlug;
  }

  /**
   * Takes over a QEMU whose owner has died: what is plugged is read back from it, and half-made back
   * ends and ports are taken out.
   */
  static async adopt(qmp: QmpClient, config: Pick<QemuConfig, "memoryMode" | "pluggableMemoryBytes">, options: WaitOptions): Promise<HotPlug> {
    const hotPlug = new HotPlug(qmp, config);
    const { plugged, leftNodes, leftChardevs, fdSets } = await readPlugged(qmp, options);
    for (const { id, port, lun, backend } of plugged) hotPlug.#plugged.set(id, { port, lun, removeBackend: () => qmp.execute(backend.command, backend.arguments) });
    // Whoever moved bytes by a port did so with the owner that died.
    for (const { id } of plugged.filter(({ isPort }) => isPort)) await hotPlug.unplug(id, options);
    for (const node of leftNodes) await qmp.execute("blockdev-del", { "node-name": node }, options);
    for (const chardev of leftChardevs) await qmp.execute("chardev-remove", { id: chardev }, options);
    hotPlug.#nextFdSet = Math.max(firstDiskFdSet, ...fdSets.map((id) => id + 1));
    hotPlug.#fdSetsAtStart.push(...fdSets.filter((id) => id >= firstDiskFdSet)); // below is the root image's
    await hotPlug.forgetDescriptors(options);
    return hotPlug;
  }

  /** Takes back the sets of descriptors that were there before us: a disk that is plugged has its own copy, and so its file is closed when it goes. */
  async forgetDescriptors(options: WaitOptions = {}): Promise<void> {
    for (const fdSet of this.#fdSetsAtStart.splice(0)) await this.#qmp.execute("remove-fd", { "fdset-id": fdSet }, options).catch(() => undefined); // gone already
  }

  /** The VM is gone and everything plugged with it: taking back succeeds from now on. */
  vmEnded(): void {
    this.#vmEnded = true;
  }

  async plugDisk(disk: DiskSpec, options: WaitOptions = {}): Promise<PluggedDisk> {
    this.#requireFree(disk.diskId);
    const lun = this.#lowestFree((plugged) => plugged.lun);
    this.#noteDisk(disk.diskId, lun);
    try {
      await this.#addNode(disk, options);
      await this.#qmp.execute("device_add", diskDevice(disk.diskId, lun), options);
      return { scsiAddress: scsiAddress(lun) };
    } catch (error) {
      throw await this.#takeBack(disk.diskId, RuntimeError.wrap(error, `plug disk "${disk.path}"`));
    }
  }

  async plugNic(nic: NicSpec, options: WaitOptions = {}): Promise<void> {
    const netdev = netdevName(nic.nicId);
    await this.#plugOnPort(nic.nicId, "NIC", nic.fd, options, {
      // Not the newer "stream": it looks the descriptor's name up in another thread, where names are not known (QEMU 7.2).
      addBackend: (fdName) => this.#qmp.execute("netdev_add", { type: "socket", id: netdev, fd: fdName }, options),
      device: (port) => nicDevice(nic, port, true),
      removeBackend: () => this.#removeNetdev(nic.nicId),
    });
  }

  async plugShare(share: ShareSpec, options: WaitOptions = {}): Promise<void> {
    // QEMU takes the device, and the guest's mount then hangs for ever.
    if (this.#memoryMode === "private") throw new RuntimeError("failed_precondition", `plug share "${share.shareId}": the VM's memory is private, and that cannot change`, { reason: "no_shares" });
    const chardev = `chardev-${share.shareId}`;
    await this.#plugOnPort(share.shareId, "share", share.fd, options, {
      ...this.#socketBackend(chardev, { server: false }, options),
      device: (port) => ({ driver: "vhost-user-fs-pci", id: share.shareId, bus: `port${port}`, chardev, tag: share.tag, "queue-size": 1024 }),
    });
  }

  async plugPort(port: PortSpec, options: WaitOptions = {}): Promise<void> {
    this.#requireFree(port.portId);
    const chardev = `chardev-${port.portId}`;
    // Without `wait: false` QEMU stands still until somebody connects.
    await this.#plugWithFd(port.portId, "port", undefined, port.fd, options, { ...this.#socketBackend(chardev, { server: true, wait: false }, options), device: portDevice(port, chardev) });
  }

  #socketBackend(id: string, how: { readonly server: boolean; readonly wait?: boolean }, options: WaitOptions): Omit<DeviceWithFd, "device"> {
    return {
      addBackend: (fdName) => this.#qmp.execute("chardev-add", { id, backend: { type: "socket", data: { addr: { type: "fd", data: { str: fdName } }, ...how } } }, options),
      removeBackend: () => this.#qmp.execute("chardev-remove", { id }),
    };
  }

  /** All that is plugged, as QEMU tells it. */
  async describe(options: WaitOptions = {}): Promise<PluggedDevices> {
    const { plugged, vcpus } = await readPlugged(this.#qmp, options);
    return {
      disks: plugged.flatMap(({ id, lun, disk }) => (lun === undefined || disk === undefined ? [] : [{ diskId: id, lun, ...disk }])),
      nics: plugged.flatMap(({ id, port, macAddress }) => (port === undefined || macAddress === undefined ? [] : [{ nicId: id, port, macAddress }])),
      shares: plugged.flatMap(({ id, port, tag }) => (port === undefined || tag === undefined ? [] : [{ shareId: id, port, tag }])),
      vcpus,
    };
  }

  /** Where the guest finds the disks that are plugged, by id. */
  get disks(): Map<string, PluggedDisk> {
    return new Map([...this.#plugged].flatMap(([id, { lun }]) => (lun === undefined ? [] : [[id, { scsiAddress: scsiAddress(lun) }]])));
  }

  async unplug(id: string, options: WaitOptions = {}): Promise<void> {
    if (this.#vmEnded) this.#plugged.delete(id);
    if (!this.#plugged.has(id)) return;
    // QEMU refuses a second request while the guest is still letting go of the device.
    let unplugging = this.#unplugging.get(id);
    if (unplugging === undefined) {
      unplugging = this.#unplug(id, options).finally(() => this.#unplugging.delete(id));
      this.#unplugging.set(id, unplugging);
    }
    await orAbandon(unplugging, `unplug "${id}"`, options);
  }

  async growVcpus(vcpuCount: number, options: WaitOptions = {}): Promise<void> {
    const slots = await this.#qmp.execute("query-hotpluggable-cpus", {}, options) as { readonly type: string; readonly props: Readonly<Record<string, unknown>>; readonly "qom-path"?: string }[]; // QEMU's schema
    const present = slots.filter((slot) => slot["qom-path"] !== undefined).length;
    const free = slots.filter((slot) => slot["qom-path"] === undefined).toReversed();
    if (vcpuCount - present > free.length) throw new RuntimeError("resource_exhausted", `grow to ${vcpuCount} vCPUs: the VM can have ${slots.length}`);
    for (const [index, slot] of free.slice(0, Math.max(0, vcpuCount - present)).entries()) {
      await this.#qmp.execute("device_add", { driver: slot.type, id: `vcpu${present + index}`, ...slot.props }, options);
    }
  }

  async resizeMemory(pluggedBytes: number, options: WaitOptions = {}): Promise<void> {
    if (pluggedBytes > this.#pluggableMemoryBytes) throw new RuntimeError("resource_exhausted", `grow memory by ${pluggedBytes} bytes: at most ${this.#pluggableMemoryBytes} can be plugged`);
    if (this.#pluggableMemoryBytes === 0) return;
    await this.#qmp.execute("qom-set", { path: `/machine/peripheral/${pluggableMemoryId}`, property: "requested-size", value: pluggedBytes }, options);
    // The guest takes it block by block, 0.1 s in all under emulation; QEMU's event of it comes at most once a second.
    await eventually(`grow memory by ${pluggedBytes} bytes`, async () => ((await this.presentMemoryBytes(options)) >= pluggedBytes ? true : undefined), { ...options, timeoutMs: Math.min(options.timeoutMs ?? Infinity, growTimeoutMs) });
  }

  /** Plugged memory that the guest has at the moment. */
  async presentMemoryBytes(options: WaitOptions): Promise<number> {
    if (this.#pluggableMemoryBytes === 0) return 0;
    return Number(await this.#qmp.execute("qom-get", { path: `/machine/peripheral/${pluggableMemoryId}`, property: "size" }, options)); // QEMU's schema: an integer
  }

  /** Memory that was asked for by {@link resizeMemory}, whoever did. */
  async pluggedMemoryBytes(options: WaitOptions = {}): Promise<number> {
    if (this.#pluggableMemoryBytes === 0) return 0;
    return Number(await this.#qmp.execute("qom-get", { path: `/machine/peripheral/${pluggableMemoryId}`, property: "requested-size" }, options));
  }

  #removeNetdev(nicId: string): Promise<unknown> {
    return this.#qmp.execute("netdev_del", { id: netdevName(nicId) });
  }

  #noteDisk(diskId: string, lun: number): void {
    this.#plugged.set(diskId, { port: undefined, lun, removeBackend: () => this.#qmp.execute("blockdev-del", { "node-name": diskNodeName(diskId) }) });
  }

  async #addNode(disk: DiskSpec, options: WaitOptions): Promise<void> {
    const fdSet = this.#nextFdSet++;
    const fd = openDisk(disk);
    try {
      await this.#qmp.execute("add-fd", { "fdset-id": fdSet }, { ...options, fd });
      await this.#qmp.execute("blockdev-add", diskNode(disk, fdSet, fstatSync(fd).isBlockDevice()), options);
    } finally {
      closeSync(fd);
      // QEMU has its own copy by now; ours is forgotten so that the set goes with the disk. An error above is the one to tell.
      await this.#qmp.execute("remove-fd", { "fdset-id": fdSet }).catch(() => undefined);
    }
  }

  async #plugOnPort(id: string, what: string, fd: number, options: WaitOptions, parts: PortDevice): Promise<void> {
    this.#requireFree(id);
    const port = this.#lowestFree((plugged) => plugged.port);
    if (port >= rootPortCount) throw new RuntimeError("resource_exhausted", `plug ${what} "${id}": all ${rootPortCount} ports are taken`);
    await this.#plugWithFd(id, what, port, fd, options, { ...parts, device: parts.device(port) });
  }

  async #plugWithFd(id: string, what: string, port: number | undefined, fd: number, options: WaitOptions, parts: DeviceWithFd): Promise<void> {
    this.#plugged.set(id, { port, lun: undefined, removeBackend: parts.removeBackend });
    const fdName = `fd-${id}`;
    try {
      await this.#qmp.execute("getfd", { fdname: fdName }, { ...options, fd });
      await parts.addBackend(fdName);
      await this.#qmp.execute("device_add", parts.device, options);
    } catch (error) {
      // A back end that was made has taken the descriptor: "not found" is as good.
      await this.#qmp.execute("closefd", { fdname: fdName }).catch(() => undefined);
      throw await this.#takeBack(id, RuntimeError.wrap(error, `plug ${what} "${id}"`));
    }
  }

  /** After a plug that failed, by its time too: then QEMU may have done what nobody waited for. */
  async #takeBack(id: string, failure: RuntimeError): Promise<RuntimeError> {
    await this.#unplug(id, {}).catch((error: unknown) => failure.cleanupErrors.push(error));
    return failure;
  }

  async #unplug(id: string, options: WaitOptions): Promise<void> {
    const given = new AbortController();
    const gone = this.#qmp.nextEvent(`unplug "${id}"`, ({ event, data }) => event === "DEVICE_DELETED" && data["device"] === id, { timeoutMs: unplugTimeoutMs, ...options, signal: AbortSignal.any([given.signal, ...(options.signal ? [options.signal] : [])]) });
    gone.catch(() => { /* awaited below unless device_del fails first */ });
    try {
      await this.#qmp.execute("device_del", { id }, options).catch((error: unknown) => { if (!saysUnplugIsUnderWay(error)) throw error; });
      await gone;
    } catch (error) {
      given.abort();
      if (!RuntimeError.is(error, "not_found")) throw RuntimeError.wrap(error, `unplug "${id}"`);
    }
    await this.#removeBackend(id);
  }

  async #removeBackend(id: string): Promise<void> {
    const plugged = this.#plugged.get(id);
    this.#plugged.delete(id);
    // QEMU lets go of a back end some time after the device; a back end that was never made is fine too.
    await eventually(`remove back end of "${id}"`, () => plugged?.removeBackend().then(() => true, (error: unknown) => (saysInUse(error) ? undefined : true)) ?? true, { timeoutMs: unplugTimeoutMs });
  }

  #requireFree(id: string): void {
    if (this.#plugged.has(id)) throw new RuntimeError("already_exists", `plug "${id}": that id is plugged already`);
  }

  #lowestFree(numberOf: (plugged: Plugged) => number | undefined): number {
    const taken = new Set([...this.#plugged.values()].map(numberOf));
    for (let number = 0; ; number++) if (!taken.has(number)) return number;
  }
}

// QEMU gives these two no class of their own: only the text tells (test/integration/qmp-double.test.ts holds them).

function saysInUse(error: unknown): boolean {
  return RuntimeError.is(error) && /in use|busy/i.test(String(error.cause));
}

/** An earlier request that the guest has not answered in time. */
function saysUnplugIsUnderWay(error: unknown): boolean {
  return RuntimeError.is(error) && /already in the process of unplug/.test(String(error.cause));
}
