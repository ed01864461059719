import type { Command } from "commander";
import { foldersOf } from "../command.ts";
import { addFilterOption, confirmed, describePruned, parsePruneFilter, pruneContainers, pruneImages } from "./prune-parts.ts";

export function define(command: Command): void {
  addFilterOption(command)
    .option("-f, --force", "do not ask")
    .option("-a, --all", "also images that no container uses, not only those without a name")
    .addHelpText("after", "\nRemoves containers that do not run, and images that nothing needs.\n\nExamples:\n  casemate prune\n  casemate prune --all --force")
    .action(async ({ force, all = false, filter }: { readonly filter?: readonly string[]; readonly force?: boolean; readonly all?: boolean }) => {
      const folders = foldersOf(command), left = parsePruneFilter(filter);
      if (!await confirmed(force, `all containers that do not run and all images ${all ? "that no container uses" : "without a name"}`)) return;
      const containers = await pruneContainers(folders, left);
      process.stdout.write(describePruned(containers, await pruneImages(folders, all, left)));
    });
}
