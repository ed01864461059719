import { OperationQueue } from "../../shared/base/operation-queue.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import type { RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import type { ExecRequest } from "../../shared/protocol/gen/casemate_pb.ts";
import { paths } from "../paths.ts";
import { containerCgroup } from "./container-spec.ts";
import type { GuestProcess } from "./guest-process.ts";
import type { SpareExec } from "./spare-exec.ts";

/** How a container is called. */
export interface ContainerName {
  /** The host's name for it. It may change in a clone of the guest, whose containers are others than those they were cloned from. */
  containerId: string;
  /** The name it was made under, which crun, its files and its cgroup keep. */
  readonly madeAs: string;
}

/** Files of a container in the agent's folder. */
export function bundleFile(madeAs: string, name = ""): string {
  return `${paths.bundles}/${madeAs}${name === "" ? "" : `/${name}`}`;
}

/** A container that crun has created, until it is removed. */
export class Container {
  readonly name: ContainerName;
  readonly spec: RunnableSpec;
  readonly init: GuestProcess;
  readonly execs = new Map<string, GuestProcess>();
  /** Execs whose start is under way. */
  readonly starting = new Map<string, Promise<GuestProcess>>();
  /** Pause, resume and update, which share files: a caller that has given up may have left one under way. */
  readonly changes = new OperationQueue();
  started = false;
  paused = false;
  removing = false;
  /** It has a memory limit of its own. */
  memoryLimited: boolean;
  /** What creation took: storages, bundle, cgroup, OOM watch. Runs in reverse on removal. */
  readonly teardown: UndoStack;
  readonly #spare: SpareExec | undefined;

  constructor(name: ContainerName, spec: RunnableSpec, init: GuestProcess, teardown: UndoStack, spare: SpareExec | undefined) {
    this.name = name;
    this.spec = spec;
    this.init = init;
    this.teardown = teardown;
    this.#spare = spare;
    this.memoryLimited = (spec.linux?.resources?.memory?.limit ?? 0) > 0;
  }

  get containerId(): string { return this.name.containerId; }
  get cgroup(): string { return containerCgroup(this.name.madeAs); }

  /** OCI's status. */
  get status(): "created" | "running" | "paused" | "stopped" {
    if (this.init.reaped) return "stopped";
    if (this.paused) return "paused";
    return this.started ? "running" : "created";
  }

  /** True when its process, which does nothing, was started when it was made. */
  get runsAhead(): boolean { return this.#spare !== undefined; }

  /** The spare exec, which has got the process, if it is for one of this kind. */
  takeSpare(request: ExecRequest, processJson: string): SpareExec | undefined {
    return this.#spare?.take(request, processJson) === true ? this.#spare : undefined;
  }

  /** The cgroup of an exec that has one of its own. */
  execCgroup(execId: string): string {
    return this.#spare?.usedBy === execId ? this.#spare.cgroup : `${this.cgroup}/exec-${execId}`;
  }

  get processes(): GuestProcess[] {
    return [this.init, ...this.execs.values()];
  }
}
