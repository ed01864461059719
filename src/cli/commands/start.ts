import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { runToExit, startAndFollow } from "../launch.ts";
import { parseDetachKeys } from "../terminal/detach-keys.ts";
import { startTimeoutOption, toStartTimeoutMs } from "./run-options.ts";
import { forEach } from "./each.ts";

interface Flags {
  readonly attach?: boolean;
  readonly interactive?: boolean;
  readonly detachKeys?: string;
  readonly quiet?: boolean;
  readonly startTimeout?: string;
}

export function define(command: Command): void {
  command
    .argument("<container...>", "names or ids")
    .option("-a, --attach", "show output and pass signals on until the container ends")
    .option("-i, --interactive", "pass standard input on")
    .option("--detach-keys <keys>", "keys that leave a terminal; default: ctrl-p,ctrl-q")
    .option(...startTimeoutOption)
    .option("-q, --quiet", "print no notes about the VM")
    .addHelpText("after", "\nExample:\n  casemate start -ai job                 run it again, on this terminal")
    .action(async (names: readonly string[], flags: Flags) => {
      const folders = foldersOf(command);
      const launch = { folders, quiet: flags.quiet ?? false, debug: globalOptions(command).debug ?? false, startTimeoutMs: toStartTimeoutMs(flags.startTimeout) };
      const follow = flags.attach === true || flags.interactive === true;
      const [name = ""] = names;
      const store = new ContainerStore(folders);
      if (!follow) {
        await forEach(names, launch.debug, async (each) => {
          const record = store.find(each);
          const { status } = readPresentStatus(store, record);
          if (status !== "running" && status !== "restarting") await startAndFollow(record, launch, { detach: true }); // docker, too, is content with one that runs
          process.stdout.write(`${each}\n`);
        });
      }
      if (names.length > 1) throw new RuntimeError("invalid_argument", "only one container can be attached to at a time", { reason: "too_many_containers" });
      await runToExit(launch, async (abort) => {
        const record = store.find(name);
        return startAndFollow(record, launch, {
          detach: false, stdin: (flags.interactive ?? false) && record.openStdin, sigProxy: true, abort,
          keys: flags.detachKeys === undefined ? undefined : parseDetachKeys(flags.detachKeys),
        });
      });
    });
}
