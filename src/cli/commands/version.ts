import type { Command } from "commander";
import { Option } from "commander";
import { packageVersion } from "../../host/config/package-root.ts";

export function define(command: Command): void {
  command
    .addOption(new Option("--format <format>").choices(["json", "text"]))
    .addHelpText("after", "\nExample:\n  casemate version --format json")
    .action((flags: { readonly format?: string }) => {
      const versions = { Version: packageVersion(), Node: process.versions.node, Os: process.platform, Arch: process.arch };
      if (flags.format === "json") process.stdout.write(`${JSON.stringify(versions)}\n`);
      else process.stdout.write(`casemate ${versions.Version}\nNode.js  ${versions.Node}\nplatform ${versions.Os}/${versions.Arch}\n`);
    });
}
