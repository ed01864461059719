import type { Command } from "commander";
import { foldersOf } from "../command.ts";
import { addFilterOption, confirmed, describePruned, parsePruneFilter, pruneImages } from "./prune-parts.ts";

export function define(command: Command): void {
  addFilterOption(command)
    .option("-f, --force", "do not ask")
    .option("-a, --all", "also images that have a name")
    .action(async ({ force, all = false, filter }: { readonly filter?: readonly string[]; readonly force?: boolean; readonly all?: boolean }) => {
      if (await confirmed(force, `all images ${all ? "that no container uses" : "without a name"}`)) process.stdout.write(describePruned([], await pruneImages(foldersOf(command), all, parsePruneFilter(filter))));
    });
}
