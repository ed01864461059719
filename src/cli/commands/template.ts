import { Option, type Command } from "commander";
import { findTemplate, listTemplates, pruneTemplates, shownKeyLength } from "../../host/template/template-store.ts";
import { deleteTemplate, releaseTemplateMemory } from "../../host/template/template-memory.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { forEach } from "./each.ts";
import { formatSize } from "../format/size.ts";
import { formatJsonLines, formatTable } from "../format/table.ts";
import { formatAgo, formatTime } from "../format/time.ts";

export function define(command: Command): void {
  command.addHelpText("after", "\nExamples:\n  casemate template ls\n  casemate template prune --all");
  command.command("ls").description("list templates, the last used first")
    .addOption(new Option("--format <format>", "\"json\": one object a line").choices(["json", "table"]))
    .action((flags: { readonly format?: string }) => {
      const rows = listTemplates(foldersOf(command));
      process.stdout.write(flags.format === "json"
        ? formatJsonLines(rows.map(({ template, lastUsedUnixMs }) => ({ Key: template.key, Holds: template.prepared?.title ?? "", Accelerator: template.accelerator, Kernel: template.kernelRelease, CreatedAt: formatTime(template.createdAtUnixMs), LastUsedAt: formatTime(lastUsedUnixMs), SizeBytes: template.memoryUsedBytes + template.stateBytes })))
        : formatTable(["KEY", "HOLDS", "ACCELERATOR", "KERNEL", "CREATED", "LAST USED", "SIZE"], rows.map(({ template, lastUsedUnixMs }) => [
          template.key.slice(0, shownKeyLength), template.prepared?.title ?? "guest", template.accelerator, template.kernelRelease, formatAgo(template.createdAtUnixMs), formatAgo(lastUsedUnixMs), formatSize(template.memoryUsedBytes + template.stateBytes)])));
    });
  command.command("inspect").description("show everything about a template").argument("<key>")
    .action((key: string) => { process.stdout.write(`${JSON.stringify(findTemplate(foldersOf(command), key), undefined, 4)}\n`); });
  command.command("rm").description("remove templates; containers that run stay").argument("<key...>")
    .action(async (keys: readonly string[]) => {
      const folders = foldersOf(command);
      await forEach(keys, globalOptions(command).debug ?? false, async (prefix) => deleteTemplate(folders, findTemplate(folders, prefix).key));
    });
  command.command("prune").description("remove templates that were not used for long").option("-a, --all", "all of them")
    .action(async (flags: { readonly all?: boolean }) => {
      const folders = foldersOf(command);
      for (const key of pruneTemplates(folders, { all: flags.all ?? false })) {
        await releaseTemplateMemory(folders, key);
        process.stdout.write(`${key}\n`);
      }
    });
}
