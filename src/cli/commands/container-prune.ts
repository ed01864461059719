import type { Command } from "commander";
import { foldersOf } from "../command.ts";
import { confirmed, describePruned, pruneContainers } from "./prune-parts.ts";

export function define(command: Command): void {
  command
    .option("-f, --force", "do not ask")
    .action(async ({ force }: { readonly force?: boolean }) => {
      if (await confirmed(force, "all containers that do not run")) process.stdout.write(describePruned(await pruneContainers(foldersOf(command)), { names: [], bytes: 0 }));
    });
}
