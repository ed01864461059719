import type { WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import type { OciResources } from "../../shared/oci/runtime-spec.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { VirtualMachine, VmLimits } from "../hypervisor/virtual-machine.ts";
import { bootMemoryBytes } from "./sandbox-config.ts";
import { requireWithin, targetSize, type SandboxSize } from "./sandbox-size.ts";

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
  readonly #claims = new Map<string, OciResources>();
  #size: SandboxSize;

  constructor(vm: VirtualMachine, agent: AgentClient["agent"], base: SandboxSize, configured: Partial<VmLimits> = {}) {
    this.#vm = vm;
    this.#agent = agent;
    this.#base = this.#size = base;
    this.#limits = {
      memoryBytes: Math.min(vm.limits.memoryBytes, configured.memoryBytes ?? Infinity),
      vcpuCount: Math.min(vm.limits.vcpuCount, configured.vcpuCount ?? Infinity),
    };
  }

  /** What the VM has now. */
  get size(): SandboxSize { return this.#size; }

  /** Takes over what an earlier owner had plugged, and for whom. */
  adopt(size: SandboxSize, claims: ReadonlyMap<string, OciResources>): void {
    this.#size = size;
    for (const [containerId, resources] of claims) this.#claims.set(containerId, resources);
  }

  /** Gives up the claim of a container that an earlier owner had made. */
  async release(containerId: string): Promise<void> {
    await this.#setBack(containerId, undefined);
  }

  /** Makes sure that the VM has room for a container with these limits, beside the others. Nothing is done when it cannot have it. */
  async claim(containerId: string, resources: OciResources, undo: UndoStack, wait: WaitOptions): Promise<void> {
    const before = this.#claims.get(containerId);
    const target = targetSize(this.#base, new Map([...this.#claims, [containerId, resources]]).values());
    requireWithin(target, this.#limits);
    undo.add(`room for container "${containerId}"`, () => this.#setBack(containerId, before));
    this.#claims.set(containerId, resources);
    if (target.memoryBytes > this.#size.memoryBytes) await this.#setMemory(target.memoryBytes, wait);
    if (target.vcpuCount > this.#size.vcpuCount) await this.#growVcpus(target.vcpuCount, wait);
  }

  /** Gives back memory that no claim needs any more. */
  async settle(wait: WaitOptions): Promise<void> {
    const { memoryBytes } = targetSize(this.#base, this.#claims.values());
    if (memoryBytes < this.#size.memoryBytes) await this.#setMemory(memoryBytes, wait);
  }

  /** The claim as it was, and the memory that goes with it, which may have been more. */

  async #setBack(containerId: string, before: OciResources | undefined): Promise<void> {
    if (before === undefined) this.#claims.delete(containerId);
    else this.#claims.set(containerId, before);
    try {
      const { memoryBytes } = targetSize(this.#base, this.#claims.values());
      if (memoryBytes !== this.#size.memoryBytes) await this.#setMemory(memoryBytes, { timeoutMs: undoTimeoutMs });
    } catch (error) {
      if (!RuntimeError.is(error, "unavailable")) throw error; // the VM is gone, and its memory with it
    }
  }

  async #setMemory(memoryBytes: number, wait: WaitOptions): Promise<void> {
    // Before the answer: a call that failed may have taken effect all the same.
    this.#size = { ...this.#size, memoryBytes };
    await this.#vm.resizeMemory(memoryBytes - bootMemoryBytes, wait);
    // Its limits for containers follow what there is.
    await this.#agent.onlineCPUMem({ nbCpus: 0, cpuOnly: false }, wait);
  }

  async #growVcpus(vcpuCount: number, wait: WaitOptions): Promise<void> {
    await this.#vm.growVcpus(vcpuCount, wait);
    this.#size = { ...this.#size, vcpuCount };
    await this.#agent.onlineCPUMem({ nbCpus: vcpuCount, cpuOnly: true }, wait);
  }
}
