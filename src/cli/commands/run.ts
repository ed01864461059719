import type { Command } from "commander";
import type { PodRecord } from "../../host/store/pod-store.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { connectOwner } from "../../host/control/owner-client.ts";
import { dropOwnerAhead, sandboxIdAhead } from "../../host/control/start-owner.ts";
import { readSnapshot } from "../../host/template/snapshot-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { CommandTimes } from "../command-times.ts";
import { discard, makeContainer, runToExit, startAndFollow, type LaunchOptions } from "../launch.ts";
import { lastKnownEnd, requireTerminal, runSession, sessionExitCode } from "../terminal/session.ts";
import { parseDetachKeys } from "../terminal/detach-keys.ts";
import { creation, defineRunOptions, startTimeoutOption, toContainerOptions, toStartTimeoutMs, type RunFlags } from "./run-options.ts";

/** What `run` and `pod run` have beyond the options of the container. */
export interface RunCommandFlags extends RunFlags {
  readonly detach?: boolean;
  readonly detachKeys?: string;
  readonly sigProxy: boolean;
  readonly startTimeout?: string;
  readonly fromSnapshot?: string;
  readonly timings?: boolean;
}

export function define(command: Command): void {
  defineRunOptions(command, "[image]")
    .option("-d, --detach", "leave the container running and print its id")
    .option("--detach-keys <keys>", "keys that leave a terminal; default: ctrl-p,ctrl-q")
    .option("--no-sig-proxy", "do not pass signals on to the container")
    .option("--timings", "print how long the steps of the start took")
    .option(...startTimeoutOption)
    .option("--from-snapshot <name>", "go on where a snapshot was made; takes no image, and of the options only --name and -d")
    .addHelpText("after", "\nExamples:\n  casemate run --rm -it busybox\n  echo data | casemate run --rm -i busybox cat\n  casemate run -d --name web -p 8080:80 -v .:/www:ro busybox httpd -f -h /www")
    .action(run);
}

async function run(image: string | undefined, args: readonly string[], flags: RunCommandFlags, command: Command): Promise<void> {
  if (flags.fromSnapshot !== undefined) {
    dropOwnerAhead();
    return runSnapshot(flags.fromSnapshot, image, flags, command);
  }
  if (image === undefined) throw new RuntimeError("invalid_argument", "no image is named", { reason: "bad_image_name", hint: "for example `casemate run --rm busybox uname -r`" });
  await runContainer(image, args, flags, command, undefined);
}

/** The same in a pod's sandbox. */
export async function runInPod(pod: PodRecord, image: string, args: readonly string[], flags: RunCommandFlags, command: Command): Promise<void> {
  await runContainer(image, args, flags, command, pod);
}

async function runContainer(image: string, args: readonly string[], flags: RunCommandFlags, command: Command, pod: PodRecord | undefined): Promise<void> {
  const folders = foldersOf(command);
  const launch: LaunchOptions = { folders, quiet: flags.quiet ?? false, debug: globalOptions(command).debug ?? false, timings: flags.timings ?? false, ...creation(flags), startTimeoutMs: toStartTimeoutMs(flags.startTimeout), ...(flags.timings === true && { times: new CommandTimes("casemate run") }) };
  const options = { ...toContainerOptions(image, args, flags, folders), sandboxId: sandboxIdAhead(folders), ...(pod !== undefined && { pod }) };
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

/** Options that make sense for a container which lives already. */
const cloneOptions = ["fromSnapshot", "name", "detach", "detachKeys", "quiet", "sigProxy", "startTimeout"];

async function runSnapshot(name: string, image: string | undefined, flags: RunCommandFlags, command: Command): Promise<void> {
  const folders = foldersOf(command);
  const other = command.options.find((option) => !cloneOptions.includes(option.attributeName()) && command.getOptionValueSource(option.attributeName()) === "cli");
  if (image !== undefined || other !== undefined) throw new RuntimeError("invalid_argument", `${image === undefined ? other?.long ?? "" : `image "${image}"`} with --from-snapshot: the container is made already`, { reason: "option_refused", hint: "only --name and -d go with --from-snapshot" });
  const launch: LaunchOptions = { folders, quiet: flags.quiet ?? false, debug: globalOptions(command).debug ?? false, startTimeoutMs: toStartTimeoutMs(flags.startTimeout) };
  const { cloneSandbox } = await import("../../host/containers/clone-sandbox.ts");
  await runToExit(launch, async (abort) => {
    const [record] = await cloneSandbox(folders, readSnapshot(folders, name), { name: flags.name, ports: "same", debug: launch.debug, signal: abort.signal });
    if (record === undefined) throw new RuntimeError("failed_precondition", `snapshot "${name}" has no container`);
    abort.dispose();
    if (flags.detach === true) {
      process.stdout.write(`${record.containerId}\n`);
      return 0;
    }
    const client = await connectOwner(folders, record.sandboxId);
    try {
      const { containerId, terminal, openStdin } = record;
      return sessionExitCode(await runSession(client, { containerId, execId: "", terminal, stdin: openStdin, forwardSignals: flags.sigProxy, lastKnownEnd: () => lastKnownEnd(folders, record) }));
    } finally {
      client.close();
    }
  });
}
