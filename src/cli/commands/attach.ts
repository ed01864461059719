import type { Command } from "commander";
import { requireRunning } from "../../host/containers/end-container.ts";
import { connectOwner } from "../../host/control/owner-client.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf } from "../command.ts";
import { exitWith } from "../exit.ts";
import { parseDetachKeys } from "../terminal/detach-keys.ts";
import { lastKnownEnd, requireTerminal, runSession, sessionExitCode } from "../terminal/session.ts";

interface Flags {
  readonly stdin: boolean;
  readonly sigProxy: boolean;
  readonly detachKeys?: string;
}

export function define(command: Command): void {
  command
    .argument("<container>", "name or id")
    .option("--no-stdin", "do not pass standard input on")
    .option("--no-sig-proxy", "do not pass signals on")
    .option("--detach-keys <keys>", "keys that leave a terminal; default: ctrl-p,ctrl-q")
    .addHelpText("after", "\nExample:\n  casemate attach web                    ctrl-p ctrl-q leaves it running, if it has a terminal")
    .action(async (name: string, flags: Flags) => {
      const folders = foldersOf(command);
      const record = new ContainerStore(folders).find(name);
      requireRunning(folders, record, "attach to");
      const stdin = flags.stdin && record.openStdin;
      requireTerminal({ tty: record.terminal, interactive: stdin });
      const client = await connectOwner(folders, record.sandboxId);
      const end = await runSession(client, {
        containerId: record.containerId, execId: "", terminal: record.terminal, stdin, forwardSignals: flags.sigProxy, lastKnownEnd: () => lastKnownEnd(folders, record),
        ...(flags.detachKeys !== undefined && { detachKeys: parseDetachKeys(flags.detachKeys) }),
      });
      client.close();
      await exitWith(sessionExitCode(end));
    });
}
