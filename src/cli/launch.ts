// What `run`, `create` and `start` share: from options to a container that waits for its start.
import { constants } from "node:os";
import { RuntimeError } from "../shared/base/errors.ts";
import type { WaitOptions } from "../shared/base/deadline.ts";
import { createContainer } from "../host/containers/create-container.ts";
import { prepareHost } from "../host/containers/prepare-host.ts";
import { createTimeoutMs, giveUpStart, noteStart, prepareContainer, type PreparedContainer, type StdioPlan } from "../host/containers/start-container.ts";
import type { ContainerOptions } from "../host/containers/container-options.ts";
import { defaultStartTimeoutMs } from "../host/sandbox/sandbox-config.ts";
import { ensureImage, type PullPolicy } from "../host/storage/images/pull.ts";
import { doneBefore } from "../host/control/repeated-calls.ts";
import { untilRemoved } from "../host/containers/end-container.ts";
import { removeWithVolumes } from "../host/store/anonymous-volumes.ts";
import { ContainerStore, type ContainerRecord } from "../host/store/container-store.ts";
import type { StateFolders } from "../host/store/paths.ts";
import type { CommandTimes } from "./command-times.ts";
import { CidFile } from "./commands/cidfile.ts";
import { exitCodes, exitWith, reportError, startFailureExitCode } from "./exit.ts";
import { formatTimings } from "./format/timings.ts";
import { Progress } from "./format/progress.ts";
import { lastKnownEnd, runSession, sessionExitCode, terminalSize } from "./terminal/session.ts";

/** How a command wants its container made and started. */
export interface LaunchOptions {
  readonly folders: StateFolders;
  readonly quiet: boolean;
  /** When to fetch the image; default: when it is missing. */
  readonly pull?: PullPolicy;
  /** Where the id of a new container is written. */
  readonly cidFile?: string | undefined;
  readonly debug: boolean;
  /** Print how long the steps of the start took, in the guest too. */
  readonly timings?: boolean;
  /** Longest start of the sandbox. Default {@link defaultStartTimeoutMs}. */
  readonly startTimeoutMs?: number | undefined;
  /** Takes the command's own times for {@link timings}. */
  readonly times?: CommandTimes;
}

/** Makes a container on disk; its image is fetched first if it is not here. */
export async function makeContainer(options: ContainerOptions, launch: LaunchOptions, wait: WaitOptions): Promise<ContainerRecord> {
  const progress = new Progress({ quiet: launch.quiet });
  launch.times?.next("write the container down");
  try {
    const image = await ensureImage(launch.folders, options.image, { ...wait, pull: launch.pull ?? "missing", onProgress: progress.step, ...(!launch.quiet && { onBlobs: progress.blobs }) });
    const cidFile = CidFile.claim(launch.cidFile);
    try {
      const record = createContainer(launch.folders, options, image);
      cidFile?.write(record.containerId);
      return record;
    } catch (error) {
      cidFile?.discard();
      throw error;
    }
  } finally {
    progress.done();
  }
}

/** Boots the container's sandbox and makes it in there. */
export async function bootContainer(record: ContainerRecord, launch: LaunchOptions, stdio: StdioPlan, wait: WaitOptions): Promise<PreparedContainer> {
  const progress = new Progress({ quiet: launch.quiet });
  launch.times?.next("find guest image and template");
  try {
    const startTimeoutMs = launch.startTimeoutMs ?? defaultStartTimeoutMs;
    const { setup, notes } = await prepareHost(launch.folders, { startTimeoutMs, debug: launch.debug, timings: launch.timings ?? false, coldBoot: record.coldBoot, onProgress: progress.step });
    progress.done();
    if (!launch.quiet) for (const note of notes) process.stderr.write(`casemate: ${note}\n`);
    if (process.stderr.isTTY) progress.step("starting the sandbox");
    launch.times?.next("start the owner, which starts the sandbox");
    const prepared = await prepareContainer(record, setup, stdio, {
      timeoutMs: startTimeoutMs + createTimeoutMs, ...wait,
      onConnected: async () => { launch.times?.next("let the owner make the container"); },
    });
    launch.times?.next("attach, and let the owner start the container");
    progress.done();
    if (!launch.quiet) for (const warning of prepared.warnings) process.stderr.write(`casemate: warning: ${warning}\n`);
    return prepared;
  } finally {
    progress.done();
  }
}

/** How {@link startAndFollow} connects this program with the container. */
export interface FollowOptions {
  /** Return as soon as it runs. */
  readonly detach: boolean;
  readonly stdin?: boolean;
  readonly keys?: Uint8Array | undefined;
  readonly sigProxy?: boolean;
  readonly abort?: StartAbort;
}

/** Boots the container's sandbox, starts it, and unless detached follows it to its end. Returns the exit code to end with. */
export async function startAndFollow(record: ContainerRecord, launch: LaunchOptions, options: FollowOptions): Promise<number> {
  const { detach, keys, abort, stdin = record.openStdin } = options;
  const size = detach ? undefined : terminalSize();
  const wait = abort === undefined ? {} : { signal: abort.signal };
  noteStart(launch.folders, record);
  const { client } = await bootContainer(record, launch, { stdin: record.openStdin, ...(size && { terminalSize: size }) }, wait);
  const { containerId } = record;
  const start = async (): Promise<void> => {
    try {
      await client.call(async ({ task }) => { await task.start({ id: containerId }, wait); }, doneBefore.start);
      abort?.dispose(); // from now on signals are the container's
      launch.times?.next("print this");
      if (launch.times !== undefined) process.stderr.write(formatTimings(launch.times.with(await client.owner.inspect({}))));
    } catch (error) {
      await giveUpStart(client, record);
      throw error;
    }
  };
  try {
    if (detach) {
      await start();
      return 0;
    }
    const end = await runSession(client, {
      containerId, execId: "", terminal: record.terminal, stdin, forwardSignals: options.sigProxy ?? true, start, lastKnownEnd: () => lastKnownEnd(launch.folders, record),
      ...(keys && { detachKeys: keys }),
    });
    client.close(); // the sandbox waits for that
    if (end.type === "exit" && record.autoRemove && record.pod === undefined) await removed(record, launch);
    return sessionExitCode(end);
  } finally {
    client.close();
  }
}

/** The container's exit code is the command's, also when its sandbox takes too long. */
async function removed(record: ContainerRecord, { folders, debug }: LaunchOptions): Promise<void> {
  try {
    await untilRemoved(folders, record);
  } catch (error) {
    reportError(error, debug);
  }
}

/** Runs work and ends the program with the exit code it returns, or with the one docker has for its failure. */
export async function runToExit(launch: LaunchOptions, work: (abort: StartAbort) => Promise<number>): Promise<void> {
  const abort = new StartAbort();
  let code: number;
  try {
    code = await work(abort);
  } catch (error) {
    reportError(error, launch.debug);
    code = abort.received === undefined ? startFailureExitCode(error) : exitCodes.signalBase + constants.signals[abort.received];
  }
  await exitWith(code);
}

/** Lets Ctrl-C and the like give a start up in order. */
export class StartAbort {
  readonly #controller = new AbortController();
  readonly #undo: readonly (() => void)[];
  #received: NodeJS.Signals | undefined;

  constructor() {
    this.#undo = (["SIGINT", "SIGTERM", "SIGHUP"] as const).map((name) => {
      const handler = (): void => {
        this.#received ??= name;
        this.#controller.abort(new RuntimeError("canceled", `ended by ${name}`));
      };
      process.on(name, handler);
      return () => { process.off(name, handler); };
    });
  }

  get signal(): AbortSignal { return this.#controller.signal; }

  /** The signal that came, if one did. */
  get received(): NodeJS.Signals | undefined { return this.#received; }

  /** Hands the signals back. */
  dispose(): void {
    for (const undo of this.#undo) undo();
  }
}

/** Removes what `run --rm` made when it could not be started. */
export function discard(folders: StateFolders, record: ContainerRecord): void {
  removeWithVolumes(new ContainerStore(folders), record);
}
