import type { UndoStack } from "../../shared/base/undo.ts";
import type { RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import { paths } from "../paths.ts";
import { containerCgroup } from "./container-spec.ts";
import type { GuestProcess } from "./guest-process.ts";

/** Files of a container in the agent's folder. */
export function bundleFile(containerId: string, name = ""): string {
  return `${paths.bundles}/${containerId}${name === "" ? "" : `/${name}`}`;
}

/** A container that crun has created, until it is removed. */
export class Container {
  readonly containerId: string;
  readonly spec: RunnableSpec;
  readonly init: GuestProcess;
  readonly execs = new Map<string, GuestProcess>();
  /** Execs whose start is under way. */
  readonly starting = new Map<string, Promise<GuestProcess>>();
  started = false;
  paused = false;
  removing = false;
  /** What creation took: storages, bundle, cgroup, OOM watch. Runs in reverse on removal. */
  readonly teardown: UndoStack;

  constructor(containerId: string, spec: RunnableSpec, init: GuestProcess, teardown: UndoStack) {
    this.containerId = containerId;
    this.spec = spec;
    this.init = init;
    this.teardown = teardown;
  }

  get cgroup(): string { return containerCgroup(this.containerId); }

  /** OCI's status. */
  get status(): "created" | "running" | "paused" | "stopped" {
    if (this.init.reaped) return "stopped";
    if (this.paused) return "paused";
    return this.started ? "running" : "created";
  }

  get processes(): GuestProcess[] {
    return [this.init, ...this.execs.values()];
  }
}
