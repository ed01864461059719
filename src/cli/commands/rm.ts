import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import { removeContainer } from "../../host/containers/end-container.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { forEach } from "./each.ts";

export function define(command: Command): void {
  command
    .argument("<container...>", "names or ids")
    .option("-f, --force", "also running ones; none of that name is fine")
    .addHelpText("after", "\nExamples:\n  casemate rm -f web\n  casemate rm $(casemate ps -aq --filter status=exited)")
    .action(async (names: readonly string[], flags: { readonly force?: boolean }) => {
      const folders = foldersOf(command);
      const force = flags.force ?? false;
      await forEach(names, globalOptions(command).debug ?? false, async (name) => {
        try {
          await removeContainer(folders, new ContainerStore(folders).find(name), { force });
        } catch (error) {
          if (!(force && RuntimeError.is(error) && error.reason === "container_not_found")) throw error;
        }
        process.stdout.write(`${name}\n`);
      });
    });
}
