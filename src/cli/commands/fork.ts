import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import { forkSandbox } from "../../host/containers/clone-sandbox.ts";
import { findInSandbox } from "../../host/containers/pods.ts";
import { foldersOf, globalOptions } from "../command.ts";

/** Each takes a VM. */
const maxCount = 100;

export function define(command: Command): void {
  command
    .argument("<container>", "name or id, or name of a pod")
    .option("--count <number>", "how many copies", "1")
    .option("--name <name>", "name of the copy; with --count each gets a number behind it. The containers of a pod get it before their own")
    .addHelpText("after", "\nThe container goes on; every copy begins where it was, with an identity, addresses and disks of its own.\nPorts that it publishes are published on free host ports.\n\nExamples:\n  casemate fork web --name web2\n  casemate fork worker --count 4")
    .action(async (name: string, flags: { readonly count: string; readonly name?: string }) => {
      const folders = foldersOf(command);
      const count = Number(flags.count);
      if (!Number.isInteger(count) || count < 1 || count > maxCount) throw new RuntimeError("invalid_argument", `--count "${flags.count}": must be a number from 1 to ${maxCount}`, { reason: "bad_number" });
      const { containers } = await forkSandbox(folders, findInSandbox(folders, name), { count, name: flags.name, debug: globalOptions(command).debug ?? false });
      for (const { containerId } of containers) process.stdout.write(`${containerId}\n`);
    });
}
