import type { Command } from "commander";
import { listProcesses } from "../../host/containers/list-processes.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf } from "../command.ts";
import { exitWith } from "../exit.ts";
import { parsePsOptions } from "../format/ps-options.ts";
import { formatTable } from "../format/table.ts";

export function define(command: Command): void {
  command
    .argument("<container>", "name or id")
    .argument("[ps-options...]", "which columns: -ef, aux, or -o with a list such as pid,user,rss,cmd")
    .passThroughOptions()
    .addHelpText("after", "\nProcess ids are the guest's: `casemate exec --vm CONTAINER kill ID` reaches them.\n\nExamples:\n  casemate top web\n  casemate top web -o pid,rss,cmd")
    .action(async (name: string, options: readonly string[]) => {
      const folders = foldersOf(command);
      const columns = parsePsOptions(options);
      const rows = await listProcesses(folders, new ContainerStore(folders).find(name), columns.map((column) => column.name));
      process.stdout.write(formatTable(columns.map(({ heading }) => heading), rows));
      await exitWith(0);
    });
}
