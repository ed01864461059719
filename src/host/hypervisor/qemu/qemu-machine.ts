import { closeSync, constants, openSync } from "node:fs";
import { eventually, orAbandon, type WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import type { UndoStack } from "../../../shared/base/undo.ts";
import type { ProcessIdentity } from "../../../shared/linux/proc.ts";
import { terminateProcess, type ManagedProcess } from "../../../shared/linux/run-process.ts";
import type { Ledger } from "../../store/ledger.ts";
import type { Accelerator, DiskSpec, NicSpec, PluggedDisk, ShareSpec, VirtualMachine, VmExit } from "../virtual-machine.ts";
import { QmpClient, type QmpEvent } from "../qmp/qmp-client.ts";
import { pluggableMemoryId, rootPortCount, scsiControllerId } from "./arguments.ts";
import { ConsoleLog } from "./console-log.ts";
import { vmmKind, type VmmSpec } from "./launch.ts";

/** QEMU opens its monitor within 100 ms; a host that swaps may take seconds. */
const monitorTimeoutMs = 15_000;
/** Time for `quit` to take effect before SIGKILL; an orderly quit takes some 20 ms. */
const quitTimeoutMs = 1_000;
/** A guest may refuse to give a device back; then it goes with the VM. */
const unplugTimeoutMs = 10_000;
/** QEMU exits and its console's last bytes arrive together. */
const consoleEndTimeoutMs = 500;
const firstFdSet = 2;

/** What was plugged under an id, and how to take it out of QEMU's back ends. */
interface Plugged {
  readonly port: number | undefined;
  readonly lun: number | undefined;
  readonly removeBackend: () => Promise<unknown>;
}

/** A running QEMU. */
export class QemuMachine implements VirtualMachine {
  readonly accelerator: Accelerator;
  readonly identity: ProcessIdentity;
  readonly exited: Promise<VmExit>;
  readonly #qmp: QmpClient;
  readonly #console: ConsoleLog;
  readonly #memoryMode: "private" | "shared";
  readonly #pluggableMemoryBytes: number;
  readonly #plugged = new Map<string, Plugged>();
  #nextFdSet = firstFdSet;
  #exitReason: VmExit["reason"] = "died";
  #killing: Promise<void> | undefined;

  private constructor(spec: VmmSpec, process: ManagedProcess, qmp: QmpClient, console: ConsoleLog) {
    this.accelerator = spec.config.accelerator;
    this.identity = process.identity;
    this.#memoryMode = spec.config.memoryMode;
    this.#pluggableMemoryBytes = spec.config.pluggableMemoryBytes;
    this.#qmp = qmp;
    this.#console = console;
    qmp.onEvent((event) => this.#noteEnd(event));
    this.exited = process.exited.then(async (exit) => {
      await orAbandon(console.ended, "console", { timeoutMs: consoleEndTimeoutMs }).catch(() => undefined); // what has come so far will do
      qmp.close();
      return { process: exit, reason: this.#exitReason, consoleTail: console.tail };
    });
  }

  /** Starts QEMU and connects to its monitor; the guest is booting when this returns. */
  static async boot(spec: VmmSpec, consolePath: string, ledger: Ledger, undo: UndoStack, wait: WaitOptions): Promise<QemuMachine> {
    const process = await ledger.plan((plan) => plan(vmmKind, spec)).take(undo);
    const died = process.exited.then((exit): never => { throw new RuntimeError("unavailable", `QEMU ended at start (exit code ${exit.exitCode ?? exit.signal ?? "unknown"}); its messages are in "${spec.logPath}"`, { reason: "vmm_died", hint: "run `casemate check`" }); });
    died.catch(() => { /* only of interest while it is raced */ });
    // Connected at once: QEMU drops what the guest prints while nobody is there.
    const console = await ConsoleLog.open(consolePath, spec.sockets.console);
    undo.add("console", () => console.close());
    const qmp = await Promise.race([QmpClient.connect(spec.sockets.qmp, { ...wait, timeoutMs: Math.min(wait.timeoutMs ?? Infinity, monitorTimeoutMs) }), died]);
    undo.add("monitor", () => qmp.close());
    return new QemuMachine(spec, process, qmp, console);
  }

  async plugDisk(disk: DiskSpec, options: WaitOptions = {}): Promise<PluggedDisk> {
    this.#requireFree(disk.diskId);
    const lun = this.#lowestFree((plugged) => plugged.lun);
    const fdSet = this.#nextFdSet++;
    const node = `node-${disk.diskId}`;
    const file = openSync(disk.path, disk.readOnly ? constants.O_RDONLY : constants.O_RDWR);
    this.#plugged.set(disk.diskId, { port: undefined, lun, removeBackend: () => this.#qmp.execute("blockdev-del", { "node-name": node }) });
    try {
      await this.#qmp.execute("add-fd", { "fdset-id": fdSet }, { ...options, fd: file });
      try {
        await this.#qmp.execute("blockdev-add", {
          driver: disk.format, "node-name": node, "read-only": disk.readOnly, ...(disk.readOnly ? {} : { discard: "unmap" }),
          file: { driver: "file", filename: `/dev/fdset/${fdSet}`, ...(disk.readOnly ? {} : { discard: "unmap" }) },
        }, options);
      } finally {
        // QEMU has its own copy by now; ours is forgotten so that the set goes with the disk.
        await this.#qmp.execute("remove-fd", { "fdset-id": fdSet }, options).catch(() => undefined); // an error above is the one to tell
      }
      await this.#qmp.execute("device_add", { driver: "scsi-hd", id: disk.diskId, bus: `${scsiControllerId}.0`, channel: 0, "scsi-id": 0, lun, drive: node, serial: disk.diskId }, options);
      return { scsiAddress: `0:${lun}` };
    } catch (error) {
      await this.#removeBackend(disk.diskId);
      throw RuntimeError.wrap(error, `plug disk "${disk.path}"`);
    } finally {
      closeSync(file);
    }
  }

  async plugNic(nic: NicSpec, options: WaitOptions = {}): Promise<void> {
    const netdev = `netdev-${nic.nicId}`;
    await this.#plugOnPort(nic.nicId, "NIC", nic.fd, options, {
      // Not the newer "stream": it looks the descriptor's name up in another thread, where names are not known (QEMU 7.2).
      addBackend: (fdName) => this.#qmp.execute("netdev_add", { type: "socket", id: netdev, fd: fdName }, options),
      device: { driver: "virtio-net-pci", netdev, mac: nic.macAddress },
      removeBackend: () => this.#qmp.execute("netdev_del", { id: netdev }),
    });
  }

  async plugShare(share: ShareSpec, options: WaitOptions = {}): Promise<void> {
    // QEMU takes the device, and the guest's mount then hangs for ever.
    if (this.#memoryMode === "private") throw new RuntimeError("failed_precondition", `plug share "${share.shareId}": the VM's memory is private, and that cannot change`, { reason: "no_shares" });
    const chardev = `chardev-${share.shareId}`;
    await this.#plugOnPort(share.shareId, "share", share.fd, options, {
      addBackend: (fdName) => this.#qmp.execute("chardev-add", { id: chardev, backend: { type: "socket", data: { addr: { type: "fd", data: { str: fdName } }, server: false } } }, options),
      device: { driver: "vhost-user-fs-pci", chardev, tag: share.tag, "queue-size": 1024 },
      removeBackend: () => this.#qmp.execute("chardev-remove", { id: chardev }),
    });
  }

  async unplug(id: string, options: WaitOptions = {}): Promise<void> {
    if (!this.#plugged.has(id)) return;
    try {
      const gone = this.#qmp.nextEvent(`unplug "${id}"`, ({ event, data }) => event === "DEVICE_DELETED" && data["device"] === id, { timeoutMs: unplugTimeoutMs, ...options });
      gone.catch(() => { /* awaited below unless device_del fails first */ });
      await this.#qmp.execute("device_del", { id }, options);
      await gone;
    } catch (error) {
      if (!RuntimeError.is(error, "not_found")) throw RuntimeError.wrap(error, `unplug "${id}"`);
    }
    await this.#removeBackend(id);
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
  }

  async pause(options: WaitOptions = {}): Promise<void> {
    await this.#qmp.execute("stop", {}, options);
  }

  async resume(options: WaitOptions = {}): Promise<void> {
    await this.#qmp.execute("cont", {}, options);
  }

  kill(): Promise<void> {
    this.#killing ??= this.#kill();
    return this.#killing;
  }

  close(): void {
    this.#qmp.close();
    this.#console.close();
  }

  async #kill(): Promise<void> {
    try {
      await this.#qmp.execute("quit", {}, { timeoutMs: quitTimeoutMs });
      await orAbandon(this.exited, "quit", { timeoutMs: quitTimeoutMs });
    } catch {
      // Stopped, stuck, or gone already: SIGKILL needs no cooperation.
    }
    await terminateProcess(this.identity, 0);
    await this.exited;
  }

  async #plugOnPort(id: string, what: string, fd: number, options: WaitOptions, parts: { readonly addBackend: (fdName: string) => Promise<unknown>; readonly device: Readonly<Record<string, unknown>>; readonly removeBackend: () => Promise<unknown> }): Promise<void> {
    this.#requireFree(id);
    const port = this.#lowestFree((plugged) => plugged.port);
    if (port >= rootPortCount) throw new RuntimeError("resource_exhausted", `plug ${what} "${id}": all ${rootPortCount} ports are taken`);
    this.#plugged.set(id, { port, lun: undefined, removeBackend: parts.removeBackend });
    try {
      await this.#qmp.execute("getfd", { fdname: `fd-${id}` }, { ...options, fd });
      await parts.addBackend(`fd-${id}`);
      await this.#qmp.execute("device_add", { id, bus: `port${port}`, ...parts.device }, options);
    } catch (error) {
      await this.#removeBackend(id);
      throw RuntimeError.wrap(error, `plug ${what} "${id}"`);
    }
  }

  async #removeBackend(id: string): Promise<void> {
    const plugged = this.#plugged.get(id);
    this.#plugged.delete(id);
    // QEMU lets go of a back end some time after the device; a back end that was never made is fine too.
    await eventually(`remove back end of "${id}"`, () => plugged?.removeBackend().then(() => true, (error: unknown) => (RuntimeError.is(error) && /in use|busy/i.test(String(error.cause)) ? undefined : true)) ?? true, { timeoutMs: unplugTimeoutMs });
  }

  #requireFree(id: string): void {
    if (this.#plugged.has(id)) throw new RuntimeError("already_exists", `plug "${id}": that id is plugged already`);
  }

  #lowestFree(numberOf: (plugged: Plugged) => number | undefined): number {
    const taken = new Set([...this.#plugged.values()].map(numberOf));
    for (let number = 0; ; number++) if (!taken.has(number)) return number;
  }

  #noteEnd({ event, data }: QmpEvent): void {
    if (event === "GUEST_PANICKED") this.#exitReason = "panicked";
    if (event === "SHUTDOWN" && data["guest"] === true && this.#exitReason === "died") this.#exitReason = "powered_off";
  }
}

/** Most bytes of memory that may be plugged on a host with that much: all of it, in whole steps, so that no limit the host can hold is refused later. */
export function pluggableMemoryBytes(hostMemoryBytes: number, stepBytes: number): number {
  return Math.floor(hostMemoryBytes / stepBytes) * stepBytes;
}
