import type { Command } from "commander";
import type { PodRecord } from "../../host/store/pod-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { discard, makeContainer, runToExit, startAndFollow, type LaunchOptions } from "../launch.ts";
import { requireTerminal } from "../terminal/session.ts";
import { parseDetachKeys } from "../terminal/detach-keys.ts";
import { creation, defineRunOptions, startTimeoutOption, toContainerOptions, toStartTimeoutMs, type RunFlags } from "./run-options.ts";

/** What `run` and `pod run` have beyond the options of the container. */
export interface RunCommandFlags extends RunFlags {
  readonly detach?: boolean;
  readonly detachKeys?: string;
  readonly sigProxy: boolean;
  readonly startTimeout?: string;
}

export function define(command: Command): void {
  defineRunOptions(command)
    .option("-d, --detach", "leave the container running and print its id")
    .option("--detach-keys <keys>", "keys that leave a terminal; default: ctrl-p,ctrl-q")
    .option("--no-sig-proxy", "do not pass signals on to the container")
    .option(...startTimeoutOption)
    .addHelpText("after", "\nExamples:\n  casemate run --rm -it busybox\n  echo data | casemate run --rm -i busybox cat\n  casemate run -d --name web -p 8080:80 -v .:/www:ro busybox httpd -f -h /www")
    .action(run);
}

async function run(image: string, args: readonly string[], flags: RunCommandFlags, command: Command): Promise<void> {
  await runContainer(image, args, flags, command, undefined);
}

/** The same in a pod's sandbox. */
export async function runInPod(pod: PodRecord, image: string, args: readonly string[], flags: RunCommandFlags, command: Command): Promise<void> {
  await runContainer(image, args, flags, command, pod);
}

async function runContainer(image: string, args: readonly string[], flags: RunCommandFlags, command: Command, pod: PodRecord | undefined): Promise<void> {
  const folders = foldersOf(command);
  const launch: LaunchOptions = { folders, quiet: flags.quiet ?? false, debug: globalOptions(command).debug ?? false, ...creation(flags), startTimeoutMs: toStartTimeoutMs(flags.startTimeout) };
  const options = { ...toContainerOptions(image, args, flags, folders), ...(pod !== undefined && { pod }) };
  const detach = flags.detach ?? false;
  if (!detach) requireTerminal({ tty: flags.tty ?? false, interactive: flags.interactive ?? false });
  const keys = flags.detachKeys === undefined ? undefined : parseDetachKeys(flags.detachKeys);
  await runToExit(launch, async (abort) => {
    const record = await makeContainer(options, launch, { signal: abort.signal });
    try {
      const code = await startAndFollow(record, launch, { detach, keys, sigProxy: flags.sigProxy, stdin: record.openStdin, abort });
      if (detach) process.stdout.write(`${record.containerId}\n`);
      return code;
    } catch (error) {
      if (record.autoRemove) discard(folders, record);
      throw error;
    }
  });
}
