import type { Command } from "commander";
import { listProcesses } from "../../host/containers/list-processes.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf } from "../command.ts";
import { exitWith } from "../exit.ts";
import { formatTable } from "../format/table.ts";

export function define(command: Command): void {
  command
    .argument("<container>", "name or id")
    .addHelpText("after", "\nProcess ids are the guest's: `casemate exec --vm CONTAINER kill ID` reaches them.\n\nExample:\n  casemate top web")
    .action(async (name: string) => {
      const folders = foldersOf(command);
      const processes = await listProcesses(folders, new ContainerStore(folders).find(name));
      process.stdout.write(formatTable(["USER", "PID", "PPID", "TTY", "STAT", "CMD"], processes.map(({ user, pid, parentPid, terminal, state, command: args }) => [user, String(pid), String(parentPid), terminal, state, args])));
      await exitWith(0);
    });
}
