import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { orAbandon, type WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import type { UndoStack } from "../../../shared/base/undo.ts";
import { isAlive, signalProcess, type ProcessIdentity } from "../../../shared/linux/proc.ts";
import { describeExit, type ManagedProcess } from "../../../shared/linux/run-process.ts";
import { watchProcess } from "../../../shared/linux/watch-process.ts";
import type { Ledger } from "../../store/ledger.ts";
import type { Accelerator, CaptureResult, CaptureTarget, DiskSpec, NicSpec, PluggedDevices, PluggedDisk, PortSpec, ShareSpec, VirtualMachine, VmExit, VmLimits } from "../virtual-machine.ts";
import { QmpClient, type QmpEvent } from "../qmp/qmp-client.ts";
import { ConsoleLog } from "./console-log.ts";
import { HotPlug } from "./hot-plug.ts";
import { agentPortIds } from "./arguments.ts";
import { copyUnchanging, copyWritten, fillPlugged } from "./saved-memory.ts";
import { vmmKind, type VmmSpec } from "./launch.ts";
import { closeSavedFile, loadDevices, saveDevices } from "./migration.ts";

/** QEMU opens its monitor within 100 ms; a host that swaps may take seconds. */
const monitorTimeoutMs = 15_000;
/** QEMU exits, and the last bytes of its console and its monitor arrive, together. */
const lastWordsTimeoutMs = 500;
/** The agent looks every 10 ms, and QEMU tells of it at most once a second; a guest that never does is saved all the same. */
const reopenTimeoutMs = 3_000;
/** Of QEMU's own messages, for an error: one or two lines. */
const messageBytes = 1_000;

/** A QEMU that was taken over, and what it says of itself. */
export interface AdoptedMachine {
  readonly vm: QemuMachine;
  readonly paused: boolean;
  /** Memory asked for beyond what it booted with. */
  readonly pluggedMemoryBytes: number;
  readonly vcpuCount: number;
  /** Disks that are plugged, by id. */
  readonly disks: ReadonlyMap<string, PluggedDisk>;
}

/** A running QEMU. */
export class QemuMachine implements VirtualMachine {
  readonly accelerator: Accelerator;
  readonly identity: ProcessIdentity;
  readonly limits: VmLimits;
  readonly exited: Promise<VmExit>;
  readonly startedBy: VirtualMachine["startedBy"];
  readonly #qmp: QmpClient;
  readonly #console: ConsoleLog;
  readonly #hotPlug: HotPlug;
  readonly #memory: Pick<VmmSpec["config"], "memoryMode" | "bootMemoryBytes" | "pluggableMemoryBytes">;
  #exitReason: VmExit["reason"] = "died";
  #killing: Promise<void> | undefined;
  /** The file that its state was written to, until it runs again. */
  #savedFile: number | undefined;

  private constructor(spec: Pick<VmmSpec, "config">, process: Pick<ManagedProcess, "identity" | "exited">, qmp: QmpClient, console: ConsoleLog, hotPlug: HotPlug) {
    this.accelerator = spec.config.accelerator;
    this.identity = process.identity;
    this.startedBy = spec.config.incoming ? "template" : "cold";
    this.limits = { memoryBytes: spec.config.bootMemoryBytes + spec.config.pluggableMemoryBytes, vcpuCount: spec.config.maxVcpus };
    this.#qmp = qmp;
    this.#console = console;
    this.#hotPlug = hotPlug;
    this.#memory = spec.config;
    qmp.onEvent((event) => this.#noteEnd(event));
    this.exited = process.exited.then(async (exit) => {
      this.#hotPlug.vmEnded();
      // Why QEMU ended and the guest's last words may still be in the sockets; what has come within the time will do.
      await orAbandon(Promise.all([console.ended, qmp.closed]), "last words", { timeoutMs: lastWordsTimeoutMs }).catch(() => undefined);
      qmp.close();
      return { process: exit, reason: this.#exitReason, consoleTail: console.tail };
    });
  }

  /** Starts QEMU and connects to its monitor; the guest is booting when this returns. @throws RuntimeError `unavailable` (reason `vmm_died`) with QEMU's own message. */
  static async boot(spec: VmmSpec, consolePath: string, ledger: Ledger, undo: UndoStack, wait: WaitOptions): Promise<QemuMachine> {
    const process = await ledger.plan((plan) => plan(vmmKind, spec)).take(undo);
    try {
      // Connected at once: QEMU drops what the guest prints while nobody is there.
      const console = await ConsoleLog.open(consolePath, spec.sockets.console);
      undo.add("console", () => console.close());
      const qmp = await QmpClient.connect(spec.sockets.qmp, { ...wait, timeoutMs: Math.min(wait.timeoutMs ?? Infinity, monitorTimeoutMs) });
      undo.add("monitor", () => qmp.close());
      return new QemuMachine(spec, process, qmp, console, HotPlug.startedWith(qmp, spec.config, spec.plugged));
    } catch (error) {
      // A QEMU that ends takes its sockets with it; why it ended says more than that.
      const exit = await orAbandon(process.exited, "QEMU's end", { timeoutMs: lastWordsTimeoutMs }).catch(() => undefined);
      if (exit === undefined) throw error;
      const message = lastMessage(spec.logPath);
      throw new RuntimeError("unavailable", `QEMU ended at start (${describeExit(exit)})${message === "" ? "" : `: ${message}`}`, { cause: error, reason: "vmm_died", hint: "run `casemate check`" });
    }
  }

  /** Starts QEMU on a saved state; the guest goes on where it was when this returns. The state is opened while QEMU starts. */
  static async restore(spec: VmmSpec, openState: () => number, consolePath: string, ledger: Ledger, undo: UndoStack, wait: WaitOptions): Promise<QemuMachine> {
    const [booted, opened] = await Promise.allSettled([QemuMachine.boot(spec, consolePath, ledger, undo, wait), (async () => openState())()]);
    if (booted.status === "rejected") throw booted.reason;
    if (opened.status === "rejected") throw opened.reason;
    const machine = booted.value;
    try {
      // Before the devices: with them the VM goes on.
      if (spec.memoryFd !== undefined) await fillPlugged(machine.identity.pid, spec.config, spec.memoryFd);
      await loadDevices(machine.#qmp, opened.value, wait);
      await machine.resume(wait);
      void machine.#hotPlug.forgetDescriptors(); // nobody waits for it, and a VM that ends meanwhile has none
      return machine;
    } catch (error) {
      throw RuntimeError.wrap(error, "restore the VM");
    }
  }

  get consoleTail(): string {
    return this.#console.tail;
  }

  /**
   * Takes over a QEMU whose owner has died. @throws RuntimeError `unavailable` (reason `vmm_died`) when it
   * is gone, `deadline_exceeded` when its monitor does not answer.
   */
  static async adopt(spec: Pick<VmmSpec, "config" | "sockets">, identity: ProcessIdentity | undefined, consolePath: string, wait: WaitOptions): Promise<AdoptedMachine> {
    if (identity === undefined || !isAlive(identity)) throw new RuntimeError("unavailable", "QEMU has ended", { reason: "vmm_died" });
    const limited = { ...wait, timeoutMs: Math.min(wait.timeoutMs ?? Infinity, monitorTimeoutMs) };
    const qmp = await QmpClient.connect(spec.sockets.qmp, limited);
    try {
      const console = await ConsoleLog.open(consolePath, spec.sockets.console);
      const hotPlug = await HotPlug.adopt(qmp, spec.config, limited);
      // QEMU's schema.
      const { running } = await qmp.execute("query-status", {}, limited) as { readonly running: boolean };
      const cpus = await qmp.execute("query-hotpluggable-cpus", {}, limited) as { readonly "qom-path"?: string }[];
      return {
        vm: new QemuMachine(spec, { identity, exited: watchProcess(identity) }, qmp, console, hotPlug),
        paused: !running,
        pluggedMemoryBytes: await hotPlug.pluggedMemoryBytes(limited),
        vcpuCount: cpus.filter((cpu) => cpu["qom-path"] !== undefined).length,
        disks: hotPlug.disks,
      };
    } catch (error) {
      qmp.close();
      throw RuntimeError.wrap(error, "take over QEMU");
    }
  }

  describePlugged(options?: WaitOptions): Promise<PluggedDevices> {
    return this.#hotPlug.describe(options);
  }

  plugDisk(disk: DiskSpec, options?: WaitOptions): Promise<PluggedDisk> {
    return this.#hotPlug.plugDisk(disk, options);
  }

  plugNic(nic: NicSpec, options?: WaitOptions): Promise<void> {
    return this.#hotPlug.plugNic(nic, options);
  }

  plugShare(share: ShareSpec, options?: WaitOptions): Promise<void> {
    return this.#hotPlug.plugShare(share, options);
  }

  plugPort(port: PortSpec, options?: WaitOptions): Promise<void> {
    return this.#hotPlug.plugPort(port, options);
  }

  unplug(id: string, options?: WaitOptions): Promise<void> {
    return this.#hotPlug.unplug(id, options);
  }

  growVcpus(vcpuCount: number, options?: WaitOptions): Promise<void> {
    return this.#hotPlug.growVcpus(vcpuCount, options);
  }

  resizeMemory(pluggedBytes: number, options?: WaitOptions): Promise<void> {
    return this.#hotPlug.resizeMemory(pluggedBytes, options);
  }

  onMemoryResized(listener: () => void): void {
    // At most once a second, the last change included.
    this.#qmp.onEvent(({ event }) => { if (event === "MEMORY_DEVICE_SIZE_CHANGE") listener(); });
  }

  async pause(options: WaitOptions = {}): Promise<void> {
    await this.#qmp.execute("stop", {}, options);
  }

  async resume(options: WaitOptions = {}): Promise<void> {
    await this.#qmp.execute("cont", {}, options);
    const file = this.#savedFile;
    this.#savedFile = undefined;
    // The guest runs, which is what was asked for.
    if (file !== undefined) await closeSavedFile(this.#qmp, file, options).catch(() => undefined);
  }

  async save(stateFd: number, disconnect: () => void, options: WaitOptions = {}): Promise<void> {
    // The agent opens a port anew when its host has gone. In a restored guest that has still to do so,
    // the next host's greeting would go with what is dropped then.
    const reopened = agentPortIds.map(async (port) => this.#qmp.nextEvent(`open "${port}" anew`, ({ event, data }) => event === "VSERPORT_CHANGE" && data["id"] === port && data["open"] === true, { ...options, timeoutMs: reopenTimeoutMs }));
    disconnect();
    await Promise.allSettled(reopened);
    if (await this.#hotPlug.presentMemoryBytes(options) > 0) throw new RuntimeError("internal", "save the VM: it has plugged memory, which is in no file of the caller's");
    await this.pause(options);
    await saveDevices(this.#qmp, stateFd, options);
  }

  async capture({ stateFd, memoryFd, whilePaused, goOn }: CaptureTarget, options: WaitOptions = {}): Promise<CaptureResult> {
    const { pid } = this.identity;
    await copyUnchanging(pid, this.#memory, memoryFd);
    await this.pause(options);
    const pausedMs = performance.now();
    try {
      const hasPlugged = await this.#hotPlug.presentMemoryBytes(options) > 0;
      const touchedBytes = await copyWritten(pid, this.#memory, hasPlugged, memoryFd);
      this.#savedFile = await saveDevices(this.#qmp, stateFd, options);
      await whilePaused();
      const pauseMs = performance.now() - pausedMs;
      if (goOn) await this.resume(options);
      return { touchedBytes, pauseMs };
    } catch (error) {
      // It goes on, whatever was to come afterwards; a QEMU that has died cannot.
      await this.resume().catch(() => undefined);
      throw error;
    }
  }

  kill(): Promise<void> {
    this.#killing ??= this.#kill();
    return this.#killing;
  }

  close(): void {
    this.#qmp.close();
    this.#console.close();
  }

  /** SIGKILL needs no cooperation, and loses no more than `quit` would: what the guest has written is in the host's page cache. */
  async #kill(): Promise<void> {
    signalProcess(this.identity, "SIGKILL");
    await this.exited;
  }

  #noteEnd({ event, data }: QmpEvent): void {
    if (event === "GUEST_PANICKED") this.#exitReason = "panicked";
    if (event !== "SHUTDOWN" || this.#exitReason !== "died") return;
    if (data["reason"] === "guest-shutdown") this.#exitReason = "powered_off";
    if (data["reason"] === "guest-reset") this.#exitReason = "reset";
  }
}

/** Most bytes of memory that may be plugged on a host with that much: all of it, in whole steps, so that no limit the host can hold is refused later. */
export function pluggableMemoryBytes(hostMemoryBytes: number, stepBytes: number): number {
  return Math.floor(hostMemoryBytes / stepBytes) * stepBytes;
}

/** The end of QEMU's log, on one line. */
function lastMessage(logPath: string): string {
  const fd = openSync(logPath, "r");
  try {
    const bytes = Buffer.alloc(messageBytes);
    const size = fstatSync(fd).size;
    const length = readSync(fd, bytes, 0, messageBytes, Math.max(0, size - messageBytes));
    return bytes.subarray(0, length).toString().trim().split("\n").join("; ");
  } finally {
    closeSync(fd);
  }
}
