import type { Command } from "commander";
import { signalNumber, stopContainer } from "../../host/containers/end-container.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { parseSeconds } from "../format/time.ts";
import { forEach } from "./each.ts";

export function define(command: Command): void {
  command
    .argument("<container...>", "names or ids")
    .option("-t, --time <seconds>", "time between the stop signal and SIGKILL; default: the container's, 10")
    .option("-s, --signal <signal>", "signal to ask with; default: the container's")
    .addHelpText("after", "\nExample:\n  casemate stop -t 30 web")
    .action(async (names: readonly string[], flags: { readonly time?: string; readonly signal?: string }) => {
      const folders = foldersOf(command);
      const timeoutMs = flags.time === undefined ? undefined : parseSeconds(flags.time, "--time");
      const signal = flags.signal === undefined ? {} : { signal: signalNumber(flags.signal) };
      await forEach(names, globalOptions(command).debug ?? false, async (name) => {
        const record = new ContainerStore(folders).find(name);
        await stopContainer(folders, record, { timeoutMs: timeoutMs ?? record.stopTimeoutMs, ...signal });
        process.stdout.write(`${name}\n`);
      });
    });
}
