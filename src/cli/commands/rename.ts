import type { Command } from "commander";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf } from "../command.ts";

export function define(command: Command): void {
  command
    .argument("<container>", "name or id")
    .argument("<new-name>", "its name from now on")
    .addHelpText("after", "\nExample:\n  casemate rename web shop")
    .action((name: string, to: string) => {
      const store = new ContainerStore(foldersOf(command));
      store.rename(store.find(name), to);
    });
}
