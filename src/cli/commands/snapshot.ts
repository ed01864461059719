import { Option, type Command } from "commander";
import { createSnapshot } from "../../host/containers/clone-sandbox.ts";
import { findInSandbox } from "../../host/containers/pods.ts";
import { listSnapshots, readSnapshot, removeSnapshot, snapshotDiskBytes } from "../../host/template/snapshot-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { forEach } from "./each.ts";
import { formatSize } from "../format/size.ts";
import { formatJsonLines, formatTable } from "../format/table.ts";
import { formatAgo, formatTime } from "../format/time.ts";

export function define(command: Command): void {
  command.addHelpText("after", "\nExamples:\n  casemate snapshot create warm web\n  casemate run -d --from-snapshot warm --name again");
  command.command("create").description("save a running container, with its memory, processes and disk")
    .argument("<name>", "of the snapshot").argument("<container>", "name or id, or name of a pod")
    .option("--stop", "end the container when it is saved")
    .action(async (name: string, container: string, flags: { readonly stop?: boolean }) => {
      const folders = foldersOf(command);
      const snapshot = await createSnapshot(folders, findInSandbox(folders, container), { name, stop: flags.stop ?? false });
      process.stdout.write(`${snapshot.name}\n`);
    });
  command.command("ls").description("list snapshots")
    .addOption(new Option("--format <format>", "\"json\": one object a line").choices(["json", "table"]))
    .action((flags: { readonly format?: string }) => {
      const folders = foldersOf(command);
      const rows = listSnapshots(folders).map((snapshot) => ({ snapshot, names: snapshot.containers.map(({ record }) => record.name).join(", "), bytes: snapshotDiskBytes(folders, snapshot.name) }));
      process.stdout.write(flags.format === "json"
        ? formatJsonLines(rows.map(({ snapshot, names, bytes }) => ({ Name: snapshot.name, Containers: names, CreatedAt: formatTime(snapshot.createdAtUnixMs), SizeBytes: bytes })))
        : formatTable(["NAME", "CONTAINERS", "CREATED", "SIZE"], rows.map(({ snapshot, names, bytes }) => [snapshot.name, names, formatAgo(snapshot.createdAtUnixMs), formatSize(bytes)])));
    });
  command.command("inspect").description("show everything about a snapshot").argument("<name>")
    .action((name: string) => { process.stdout.write(`${JSON.stringify(readSnapshot(foldersOf(command), name), undefined, 4)}\n`); });
  command.command("rm").description("remove snapshots; containers that went on from them stay").argument("<name...>")
    .action(async (names: readonly string[]) => {
      const folders = foldersOf(command);
      await forEach(names, globalOptions(command).debug ?? false, async (name) => removeSnapshot(folders, readSnapshot(folders, name).name));
    });
}
