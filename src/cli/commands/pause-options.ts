import type { Command } from "commander";
import type { pauseContainer } from "../../host/containers/pause-container.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { forEach } from "./each.ts";

/** What `pause` and `unpause` share. */
export function definePause(command: Command, sandboxHelp: string, work: typeof pauseContainer): void {
  command
    .argument("<container...>", "names or ids")
    .option("--sandbox", sandboxHelp)
    .addHelpText("after", `\nExamples:\n  casemate ${command.name()} web\n  casemate ${command.name()} --sandbox web`)
    .action(async (names: readonly string[], flags: { readonly sandbox?: boolean }) => {
      const folders = foldersOf(command);
      await forEach(names, globalOptions(command).debug ?? false, async (name) => {
        await work(folders, new ContainerStore(folders).find(name), { sandbox: flags.sandbox ?? false });
        process.stdout.write(`${name}\n`);
      });
    });
}
