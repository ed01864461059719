import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import { removeContainer } from "../../host/containers/end-container.ts";
import { removeAnonymousVolumes } from "../../host/store/anonymous-volumes.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { forEach } from "./each.ts";

export function define(command: Command): void {
  command
    .argument("<container...>", "names or ids")
    .option("-f, --force", "also running ones; none of that name is fine")
    .option("-v, --volumes", "with their volumes that were given no name")
    .addHelpText("after", "\nExamples:\n  casemate rm -f web\n  casemate rm $(casemate ps -aq --filter status=exited)")
    .action(async (names: readonly string[], flags: { readonly force?: boolean; readonly volumes?: boolean }) => {
      const folders = foldersOf(command);
      const force = flags.force ?? false;
      await forEach(names, globalOptions(command).debug ?? false, async (name) => {
        try {
          const store = new ContainerStore(folders);
          const record = store.find(name);
          await removeContainer(folders, record, { force });
          if (flags.volumes === true) removeAnonymousVolumes(store, record);
        } catch (error) {
          if (!(force && RuntimeError.is(error) && error.reason === "container_not_found")) throw error;
        }
        process.stdout.write(`${name}\n`);
      });
    });
}
