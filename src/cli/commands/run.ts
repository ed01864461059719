import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { ContainerRecord } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { exitCodes, exitWith, reportError, startFailureExitCode } from "../exit.ts";
import { abortOnSignals, bootContainer, discard, makeContainer, type LaunchOptions } from "../launch.ts";
import { requireTerminal, runSession, sessionExitCode, terminalSize } from "../terminal/session.ts";
import { parseDetachKeys } from "../terminal/detach-keys.ts";
import { defineRunOptions, toContainerOptions, type RunFlags } from "./run-options.ts";

interface Flags extends RunFlags {
  readonly detach?: boolean;
  readonly detachKeys?: string;
  readonly sigProxy: boolean;
}

export function define(command: Command): void {
  defineRunOptions(command)
    .option("-d, --detach", "leave the container running and print its id")
    .option("--detach-keys <keys>", "keys that leave a terminal; default: ctrl-p,ctrl-q")
    .option("--no-sig-proxy", "do not pass signals on to the container")
    .addHelpText("after", "\nExamples:\n  casemate run --rm -it busybox\n  echo data | casemate run --rm -i busybox cat\n  casemate run -d --name web -p 8080:80 -v .:/www:ro busybox httpd -f -h /www")
    .action(run);
}

async function run(image: string, args: readonly string[], flags: Flags, command: Command): Promise<void> {
  const folders = foldersOf(command);
  const debug = globalOptions(command).debug ?? false;
  const launch: LaunchOptions = { folders, quiet: flags.quiet ?? false, debug };
  const options = toContainerOptions(image, args, flags, folders);
  const detach = flags.detach ?? false;
  if (!detach) requireTerminal({ tty: flags.tty ?? false, interactive: flags.interactive ?? false });
  const keys = flags.detachKeys === undefined ? undefined : parseDetachKeys(flags.detachKeys);
  const abort = abortOnSignals();
  let record: ContainerRecord | undefined;
  let code: number;
  try {
    record = await makeContainer(options, launch, { signal: abort.signal });
    code = await startAndFollow(record, launch, { detach, keys, sigProxy: flags.sigProxy, signal: abort.signal, started: abort.dispose });
  } catch (error) {
    if (record?.autoRemove === true) discard(folders, record);
    const name = abort.received();
    if (name !== undefined && RuntimeError.is(error, "canceled")) {
      process.stderr.write(`casemate: ${error.message}\n`);
      await exitWith(exitCodes.signalBase + ({ SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as Readonly<Record<string, number>>)[name]!);
    }
    reportError(error, debug);
    code = startFailureExitCode(error);
  }
  await exitWith(code);
}

interface FollowOptions {
  readonly detach: boolean;
  readonly keys: Uint8Array | undefined;
  readonly sigProxy: boolean;
  readonly signal: AbortSignal;
  /** Called when the container runs: from then on signals are the container's. */
  readonly started: () => void;
}

async function startAndFollow(record: ContainerRecord, launch: LaunchOptions, options: FollowOptions): Promise<number> {
  const { detach, keys, signal } = options;
  const size = detach ? undefined : terminalSize();
  const { client } = await bootContainer(record, launch, { stdin: record.openStdin, ...(size && { terminalSize: size }) }, { signal });
  const { containerId } = record;
  const start = async (): Promise<void> => {
    try {
      await client.task.start({ id: containerId }, { signal });
      options.started();
    } catch (error) {
      await client.owner.stop({ timeoutMs: 0 }).catch(() => { /* the first error is what the user needs */ });
      throw error;
    }
  };
  try {
    if (detach) {
      await start();
      process.stdout.write(`${containerId}\n`);
      return 0;
    }
    return sessionExitCode(await runSession(client, {
      containerId, execId: "", terminal: record.terminal, stdin: record.openStdin, forwardSignals: options.sigProxy, start,
      ...(keys && { detachKeys: keys }),
    }));
  } finally {
    client.close();
  }
}
