import type { Command } from "commander";
import { packageVersion } from "../../host/config/package-root.ts";
import { formatHelp, formatRows, parseFormat } from "../format/format-option.ts";

export function define(command: Command): void {
  command
    .option("-f, --format <format>", formatHelp.replace("{{.ID}} {{.State}}", "{{.Version}}").replace("{id} {state}", "{version}"))
    .addHelpText("after", "\nExample:\n  casemate version --format json")
    .action((flags: { readonly format?: string }) => {
      const versions = { Version: packageVersion(), Node: process.versions.node, Os: process.platform, Arch: process.arch };
      const text = `casemate ${versions.Version}\nNode.js  ${versions.Node}\nplatform ${versions.Os}/${versions.Arch}\n`;
      process.stdout.write(flags.format === undefined ? text : formatRows([versions], parseFormat(flags.format), () => text));
    });
}
