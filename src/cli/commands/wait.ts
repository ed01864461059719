import type { Command } from "commander";
import { waitForContainer } from "../../host/containers/end-container.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { forEach } from "./each.ts";

export function define(command: Command): void {
  command
    .argument("<container...>", "names or ids")
    .addHelpText("after", "\nExample:\n  code=$(casemate wait job)")
    .action(async (names: readonly string[]) => {
      const folders = foldersOf(command);
      await forEach(names, globalOptions(command).debug ?? false, async (name) => {
        process.stdout.write(`${await waitForContainer(folders, new ContainerStore(folders).find(name))}\n`);
      });
    });
}
