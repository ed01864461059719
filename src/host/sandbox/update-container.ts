import type { WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { Step } from "../../shared/base/steps.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import type { OciResources } from "../../shared/oci/runtime-spec.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import { inverseOf, mergeResources } from "./container-resources.ts";
import type { Container } from "./container.ts";
import { toLinuxResources } from "./linux-resources.ts";
import type { SandboxRoom } from "./sandbox-room.ts";

/** A guest that is well takes limits back within a second. */
const undoTimeoutMs = 10_000;

/** A change of a container's limits under way. */
export class ContainerUpdate {
  readonly container: Container;
  readonly change: OciResources;
  /** All limits after the change. */
  readonly merged: OciResources;
  readonly room: SandboxRoom;
  readonly undo: UndoStack;
  readonly #agent: AgentClient["agent"];

  constructor(container: Container, change: OciResources, room: SandboxRoom, agent: AgentClient["agent"], undo: UndoStack) {
    this.container = container;
    this.change = change;
    this.merged = mergeResources(container.resources, change);
    this.room = room;
    this.#agent = agent;
    this.undo = undo;
  }

  async setInGuest(wait: WaitOptions): Promise<void> {
    const { container: { containerId, resources: before }, change } = this;
    this.undo.add("limits in the guest", () => this.#setBack(inverseOf(before, change)));
    await this.#agent.updateContainer({ containerId, resources: toLinuxResources(change) }, wait);
  }

  async #setBack(resources: OciResources): Promise<void> {
    try {
      await this.#agent.updateContainer({ containerId: this.container.containerId, resources: toLinuxResources(resources) }, { timeoutMs: undoTimeoutMs });
    } catch (error) {
      // It has ended meanwhile, or the guest has.
      if (!["not_found", "failed_precondition", "unavailable"].some((code) => RuntimeError.is(error) && error.code === code)) throw error;
    }
  }
}

/** How limits change: room first, then the guest, and what is not needed any more goes back. */
export const updateSteps: readonly Step<ContainerUpdate>[] = [
  { name: "make room", run: ({ container, merged, room, undo }, wait) => room.claim(container.containerId, merged, undo, wait) },
  { name: "set limits in the guest", run: (update, wait) => update.setInGuest(wait) },
  { name: "give back room", run: ({ room }, wait) => room.settle(wait) },
];
