import type { Command } from "commander";
import { stopContainer } from "../../host/containers/end-container.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { parseSeconds } from "../format/time.ts";
import { startAndFollow } from "../launch.ts";
import { forEach } from "./each.ts";

export function define(command: Command): void {
  command
    .argument("<container...>", "names or ids")
    .option("-t, --time <seconds>", "time between the stop signal and SIGKILL; default: the container's, 10")
    .option("-q, --quiet", "print no notes about the VM")
    .addHelpText("after", "\nExamples:\n  casemate restart web\n  casemate restart -t 2 web db")
    .action(async (names: readonly string[], flags: { readonly time?: string; readonly quiet?: boolean }) => {
      const folders = foldersOf(command);
      const timeoutMs = flags.time === undefined ? undefined : parseSeconds(flags.time, "--time");
      const launch = { folders, quiet: flags.quiet ?? false, debug: globalOptions(command).debug ?? false };
      await forEach(names, launch.debug, async (name) => {
        const record = new ContainerStore(folders).find(name);
        await stopContainer(folders, record, { timeoutMs: timeoutMs ?? record.stopTimeoutMs });
        await startAndFollow(record, launch, { detach: true });
        process.stdout.write(`${name}\n`);
      });
    });
}
