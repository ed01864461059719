import type { WaitOptions } from "../../shared/base/deadline.ts";
import type { Step } from "../../shared/base/steps.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import type { OciResources } from "../../shared/oci/runtime-spec.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { VirtualMachine, VmLimits } from "../hypervisor/virtual-machine.ts";
import { bootMemoryBytes, memoryStepBytes } from "./sandbox-config.ts";
import { limitsMemory, requireWithin, targetSize, type SandboxSize } from "./sandbox-size.ts";

/** Memory given back is only asked for, and memory taken again comes within a tenth of a second. */
const undoTimeoutMs = 5_000;

/**
 * What the containers of one sandbox need of its VM, and the plugging that follows from it. Memory
 * comes and goes; vCPUs only come (QEMU crashes when one is taken away).
 */
export class SandboxRoom {
  readonly #vm: Pick<VirtualMachine, "growVcpus" | "resizeMemory">;
  readonly #agent: AgentClient["agent"];
  readonly #base: SandboxSize;
  readonly #limits: VmLimits;
  readonly #growthLimitBytes: number;
  readonly #claims = new Map<string, OciResources>();
  #size: SandboxSize;
  /** What containers without a limit have got beyond the default, because the guest was short of it. */
  #extraBytes = 0;

  constructor(vm: VirtualMachine, agent: AgentClient["agent"], base: SandboxSize, configured: Partial<VmLimits> = {}) {
    this.#vm = vm;
    this.#agent = agent;
    this.#base = this.#size = base;
    this.#limits = {
      memoryBytes: Math.min(vm.limits.memoryBytes, configured.memoryBytes ?? Infinity),
      vcpuCount: Math.min(vm.limits.vcpuCount, configured.vcpuCount ?? Infinity),
    };
    this.#growthLimitBytes = configured.memoryBytes === undefined ? vm.limits.memoryBytes / 2 : this.#limits.memoryBytes;
  }

  /** What the VM has now. */
  get size(): SandboxSize { return this.#size; }

  /** Takes over what an earlier owner had plugged, and for whom. */
  adopt(size: SandboxSize, claims: ReadonlyMap<string, OciResources>): void {
    this.#size = size;
    for (const [containerId, resources] of claims) this.#claims.set(containerId, resources);
    if (this.#hasOpenClaim(this.#claims)) this.#extraBytes = Math.max(0, size.memoryBytes - targetSize(this.#base, this.#claims.values()).memoryBytes);
  }

  /** True while a container without a limit may have more memory: up to the configured maximum, or half of what the host has. */
  get canGrow(): boolean {
    return this.#hasOpenClaim(this.#claims) && this.#grown() > this.#size.memoryBytes;
  }

  /** Gives a guest that is short of memory a quarter more, at least two steps. */
  async grow(undo: UndoStack, wait: WaitOptions): Promise<void> {
    const before = this.#extraBytes, memoryBytes = this.#grown();
    undo.add("memory", async () => {
      this.#extraBytes = before;
      await this.#setBack();
    });
    this.#extraBytes += memoryBytes - this.#size.memoryBytes;
    await this.#setMemory(memoryBytes, wait);
  }

  /** Gives up the claim of a container that an earlier owner had made. */
  async release(containerId: string): Promise<void> {
    this.#claims.delete(containerId);
    await this.#setBack();
  }

  /** Makes sure that the VM has room for a container with these limits, beside the others. Nothing is done when it cannot have it. */
  async claim(containerId: string, resources: OciResources, undo: UndoStack, wait: WaitOptions): Promise<void> {
    const before = this.#claims.get(containerId);
    const target = this.#target(new Map([...this.#claims, [containerId, resources]]));
    requireWithin(target, this.#limits);
    undo.add(`room for container "${containerId}"`, async () => {
      if (before === undefined) this.#claims.delete(containerId);
      else this.#claims.set(containerId, before);
      await this.#setBack();
    });
    this.#claims.set(containerId, resources);
    if (target.memoryBytes > this.#size.memoryBytes) await this.#setMemory(target.memoryBytes, wait);
    if (target.vcpuCount > this.#size.vcpuCount) await this.#growVcpus(target.vcpuCount, wait);
  }

  /** Gives back memory that no claim needs any more. */
  async settle(wait: WaitOptions): Promise<void> {
    const { memoryBytes } = this.#target();
    if (memoryBytes < this.#size.memoryBytes) await this.#setMemory(memoryBytes, wait);
  }

  /** Lets the containers have what memory the guest has now. */
  async share(wait: WaitOptions): Promise<void> {
    await this.#agent.onlineCPUMem({ nbCpus: 0, cpuOnly: false }, wait);
  }

  /** What the claims need, and the extra as long as somebody may use it; it gives way to claims. */
  #target(claims: ReadonlyMap<string, OciResources> = this.#claims): SandboxSize {
    const { memoryBytes, vcpuCount } = targetSize(this.#base, claims.values());
    if (!this.#hasOpenClaim(claims)) return { memoryBytes, vcpuCount };
    return { memoryBytes: Math.max(memoryBytes, Math.min(memoryBytes + this.#extraBytes, this.#limits.memoryBytes)), vcpuCount };
  }

  /** The memory after one more growth. */
  #grown(): number {
    const { memoryBytes } = this.#size;
    const wanted = memoryBytes + Math.max(2 * memoryStepBytes, Math.floor(memoryBytes / 4 / memoryStepBytes) * memoryStepBytes);
    return Math.min(wanted, Math.floor(this.#growthLimitBytes / memoryStepBytes) * memoryStepBytes);
  }

  /** A container without a limit shares what there is, and can use more of it. */
  #hasOpenClaim(claims: ReadonlyMap<string, OciResources>): boolean {
    return [...claims.values()].some((resources) => !limitsMemory(resources));
  }

  /** The memory that the claims ask for now, which may have been more before. */
  async #setBack(): Promise<void> {
    try {
      if (!this.#hasOpenClaim(this.#claims)) this.#extraBytes = 0;
      const { memoryBytes } = this.#target();
      if (memoryBytes !== this.#size.memoryBytes) await this.#setMemory(memoryBytes, { timeoutMs: undoTimeoutMs });
    } catch (error) {
      if (!RuntimeError.is(error, "unavailable")) throw error; // the VM is gone, and its memory with it
    }
  }

  async #setMemory(memoryBytes: number, wait: WaitOptions): Promise<void> {
    // Before the answer: a call that failed may have taken effect all the same.
    this.#size = { ...this.#size, memoryBytes };
    await this.#vm.resizeMemory(memoryBytes - bootMemoryBytes, wait);
    await this.share(wait);
  }

  async #growVcpus(vcpuCount: number, wait: WaitOptions): Promise<void> {
    await this.#vm.growVcpus(vcpuCount, wait);
    this.#size = { ...this.#size, vcpuCount };
    await this.#agent.onlineCPUMem({ nbCpus: vcpuCount, cpuOnly: true }, wait);
  }
}

/** How the memory grows when the guest is short of it. */
export const growSteps: readonly Step<{ readonly room: SandboxRoom; readonly undo: UndoStack }>[] = [
  { name: "plug memory", run: ({ room, undo }, wait) => room.grow(undo, wait) },
];
