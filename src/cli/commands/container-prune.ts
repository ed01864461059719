import type { Command } from "commander";
import { foldersOf } from "../command.ts";
import { addFilterOption, confirmed, describePruned, parsePruneFilter, pruneContainers } from "./prune-parts.ts";

export function define(command: Command): void {
  addFilterOption(command)
    .option("-f, --force", "do not ask")
    .action(async ({ force, filter }: { readonly filter?: readonly string[]; readonly force?: boolean }) => {
      if (await confirmed(force, "all containers that do not run")) process.stdout.write(describePruned(await pruneContainers(foldersOf(command), parsePruneFilter(filter)), { names: [], bytes: 0 }));
    });
}
