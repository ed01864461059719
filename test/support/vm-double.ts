import { nothingPlugged, type CaptureResult, type CaptureTarget, type PluggedDisk, type VirtualMachine, type VmExit, type PluggedDevices } from "../../src/host/hypervisor/virtual-machine.ts";
import { orAbandon, type WaitOptions } from "../../src/shared/base/deadline.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";

/** A VM without a guest: knows what is plugged and how large it is, ends when it is told to, refuses what a VM that is gone refuses. */
export class VmDouble implements VirtualMachine {
  readonly accelerator = "tcg";
  consoleTail = "";
  readonly startedBy: "cold" | "template";
  readonly identity = { pid: 1, startTimeTicks: -1 };
  readonly limits = { memoryBytes: 8 * 1024 ** 3, vcpuCount: 4 };
  readonly exited: Promise<VmExit>;
  readonly plugged = new Set<string>();
  /** Calls that are not answered: the monitor of a QEMU that is stuck. */
  readonly hanging = new Set<string>();
  /** False: not even force ends it. */
  killable = true;
  pluggedMemoryBytes = 0;
  /** Tells that the guest has taken or given back memory. */
  memoryResized: () => void = () => undefined;
  vcpuCount = 1;
  paused = false;
  kills = 0;
  readonly #exit = Promise.withResolvers<VmExit>();
  #over = false;

  constructor(startedBy: "cold" | "template" = "cold") {
    this.startedBy = startedBy;
    this.exited = this.#exit.promise;
  }

  /** Disks that are plugged, and where. */
  get disks(): Map<string, PluggedDisk> {
    return new Map([...this.plugged].filter((id) => id.startsWith("disk")).map((id, index) => [id, { scsiAddress: `0:${index}` }]));
  }

  /** The VM ends by itself. */
  end(reason: VmExit["reason"], consoleTail = ""): void {
    this.#over = true;
    this.#exit.resolve({ process: { exitCode: undefined, signal: "SIGKILL" }, reason, consoleTail });
  }

  async plugDisk({ diskId }: { readonly diskId: string }, wait?: WaitOptions): Promise<PluggedDisk> {
    await this.#plug("plugDisk", diskId, wait);
    return { scsiAddress: `0:${this.plugged.size - 1}` };
  }

  async plugNic({ nicId }: { readonly nicId: string }, wait?: WaitOptions): Promise<void> { await this.#plug("plugNic", nicId, wait); }
  async plugShare({ shareId }: { readonly shareId: string }, wait?: WaitOptions): Promise<void> { await this.#plug("plugShare", shareId, wait); }
  async plugPort({ portId }: { readonly portId: string }, wait?: WaitOptions): Promise<void> { await this.#plug("plugPort", portId, wait); }

  async unplug(id: string, wait?: WaitOptions): Promise<void> {
    if (!this.#over) await this.#call("unplug", wait);
    this.plugged.delete(id);
  }

  async growVcpus(vcpuCount: number, wait?: WaitOptions): Promise<void> {
    await this.#call("growVcpus", wait);
    this.vcpuCount = Math.max(this.vcpuCount, vcpuCount);
  }

  async resizeMemory(pluggedBytes: number, wait?: WaitOptions): Promise<void> {
    await this.#call("resizeMemory", wait);
    this.pluggedMemoryBytes = pluggedBytes;
  }

  onMemoryResized(listener: () => void): void { this.memoryResized = listener; }

  async pause(wait?: WaitOptions): Promise<void> {
    await this.#call("pause", wait);
    this.paused = true;
  }

  async resume(wait?: WaitOptions): Promise<void> {
    await this.#call("resume", wait);
    this.paused = false;
  }

  async save(_stateFd: number, disconnect: () => void, wait?: WaitOptions): Promise<void> {
    disconnect();
    await this.#call("save", wait);
  }

  async capture({ whilePaused }: CaptureTarget, wait?: WaitOptions): Promise<CaptureResult> {
    await this.#call("capture", wait);
    await whilePaused();
    return { touchedBytes: 0, pauseMs: 0 };
  }

  async describePlugged(wait?: WaitOptions): Promise<PluggedDevices> {
    await this.#call("describePlugged", wait);
    return nothingPlugged;
  }

  close(): void { /* nothing is connected */ }

  async kill(): Promise<void> {
    this.kills++;
    if (!this.killable) await this.exited;
    this.end("died");
  }

  async #plug(method: string, id: string, wait: WaitOptions | undefined): Promise<void> {
    await this.#call(method, wait);
    if (this.plugged.has(id)) throw new RuntimeError("already_exists", `plug "${id}"`);
    this.plugged.add(id);
  }

  /** As QEMU's monitor: late, or never, or not any more. */
  async #call(method: string, wait: WaitOptions = {}): Promise<void> {
    const gone = (): RuntimeError => new RuntimeError("unavailable", `QMP ${method}`, { cause: new RuntimeError("unavailable", "QMP connection closed by QEMU") });
    if (this.#over) throw gone();
    if (this.hanging.has(method)) await orAbandon(this.exited.then(() => { throw gone(); }), `QMP ${method}`, wait);
  }
}
