// What `run`, `create` and `start` share: from options to a container that waits for its start.
import { RuntimeError } from "../shared/base/errors.ts";
import type { WaitOptions } from "../shared/base/deadline.ts";
import { createContainer } from "../host/containers/create-container.ts";
import { prepareHost } from "../host/containers/prepare-host.ts";
import { prepareContainer, type PreparedContainer, type StdioPlan } from "../host/containers/start-container.ts";
import type { ContainerOptions } from "../host/containers/container-options.ts";
import { ensureImage } from "../host/storage/images/pull.ts";
import { ContainerStore, type ContainerRecord } from "../host/store/container-store.ts";
import type { StateFolders } from "../host/store/paths.ts";
import { Progress } from "./format/progress.ts";

/** Longest start: a cold boot under emulation on a busy machine, and making the container. */
const startTimeoutMs = 180_000;

/** How a command wants its container made and started. */
export interface LaunchOptions {
  readonly folders: StateFolders;
  readonly quiet: boolean;
  readonly debug: boolean;
}

/** Makes a container on disk; its image is fetched first if it is not here. */
export async function makeContainer(options: ContainerOptions, launch: LaunchOptions, wait: WaitOptions): Promise<ContainerRecord> {
  const progress = new Progress({ quiet: launch.quiet });
  try {
    const image = await ensureImage(launch.folders, options.image, { ...wait, onProgress: progress.step });
    return createContainer(launch.folders, options, image);
  } finally {
    progress.done();
  }
}

/** Boots the container's sandbox and makes it in there. */
export async function bootContainer(record: ContainerRecord, launch: LaunchOptions, stdio: StdioPlan, wait: WaitOptions): Promise<PreparedContainer> {
  const progress = new Progress({ quiet: launch.quiet });
  try {
    const { setup, note } = await prepareHost(launch.folders, { debug: launch.debug, onProgress: progress.step });
    if (note !== undefined && !launch.quiet) {
      progress.done();
      process.stderr.write(`casemate: ${note}\n`);
    }
    if (process.stderr.isTTY) progress.step("starting the sandbox");
    const prepared = await prepareContainer(record, setup, stdio, { timeoutMs: startTimeoutMs, ...wait });
    progress.done();
    if (!launch.quiet) for (const warning of prepared.warnings) process.stderr.write(`casemate: warning: ${warning}\n`);
    return prepared;
  } finally {
    progress.done();
  }
}

/** An AbortSignal that fires on Ctrl-C and the like, so that a start is given up in order; `dispose` hands the signals back. */
export function abortOnSignals(): { readonly signal: AbortSignal; readonly received: () => NodeJS.Signals | undefined; readonly dispose: () => void } {
  const controller = new AbortController();
  let received: NodeJS.Signals | undefined;
  const handlers = (["SIGINT", "SIGTERM", "SIGHUP"] as const).map((name) => {
    const handler = (): void => {
      received ??= name;
      controller.abort(new RuntimeError("canceled", `ended by ${name}`));
    };
    process.on(name, handler);
    return () => { process.off(name, handler); };
  });
  return { signal: controller.signal, received: () => received, dispose: () => { for (const off of handlers) off(); } };
}

/** Removes what `run --rm` made when it could not be started. */
export function discard(folders: StateFolders, record: ContainerRecord): void {
  new ContainerStore(folders).remove(record);
}
