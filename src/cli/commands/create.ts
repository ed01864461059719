import type { Command } from "commander";
import { foldersOf, globalOptions } from "../command.ts";
import { makeContainer } from "../launch.ts";
import { creation, defineRunOptions, toContainerOptions, type RunFlags } from "./run-options.ts";

export function define(command: Command): void {
  defineRunOptions(command)
    .addHelpText("after", "\nExample:\n  casemate create --name job -e SIZE=10 busybox sh -c 'echo $SIZE'\n  casemate start -a job")
    .action(async (image: string, args: readonly string[], flags: RunFlags) => {
      const folders = foldersOf(command);
      const launch = { folders, quiet: flags.quiet ?? false, debug: globalOptions(command).debug ?? false, ...creation(flags) };
      const record = await makeContainer(toContainerOptions(image, args, flags, folders), launch, {});
      process.stdout.write(`${record.containerId}\n`);
    });
}
