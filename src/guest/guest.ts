import type { Logger } from "../shared/base/log.ts";
import type { Containers } from "./containers/containers.ts";
import type { ContainerFiles } from "./files/container-files.ts";
import type { EventLog } from "./events.ts";
import type { CallsUnderWay } from "./services/calls-under-way.ts";
import type { Storages } from "./storage/storages.ts";
import type { Optimizer } from "./system/optimizer.ts";
import type { SandboxFiles } from "./system/sandbox-files.ts";

/** What the services work with. */
export interface Guest {
  readonly containers: Containers;
  readonly files: ContainerFiles;
  readonly storages: Storages;
  readonly events: EventLog;
  readonly sandboxFiles: SandboxFiles;
  readonly optimizer: Optimizer;
  /** Calls that change processes and are not answered yet. */
  readonly calls: CallsUnderWay;
  readonly log: Logger;
  /** Resolves when all kernel modules are loaded, which goes on behind the first answers. */
  readonly modulesLoaded: Promise<void>;
  /** Loads a kernel module by name. */
  loadModule(name: string): Promise<void>;
}
