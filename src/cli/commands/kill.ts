import type { Command } from "commander";
import { signalContainer, signalNumber } from "../../host/containers/end-container.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { forEach } from "./each.ts";

export function define(command: Command): void {
  command
    .argument("<container...>", "names or ids")
    .option("-s, --signal <signal>", "signal by name or number", "KILL")
    .addHelpText("after", "\nExample:\n  casemate kill -s HUP web               let it read its configuration again")
    .action(async (names: readonly string[], flags: { readonly signal: string }) => {
      const folders = foldersOf(command);
      const signal = signalNumber(flags.signal);
      await forEach(names, globalOptions(command).debug ?? false, async (name) => {
        await signalContainer(folders, new ContainerStore(folders).find(name), signal);
        process.stdout.write(`${name}\n`);
      });
    });
}
