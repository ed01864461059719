import type { Command } from "commander";
import { parseImageName, shortRepository } from "../../host/storage/images/image-name.ts";
import { ImageStore, type StoredImage } from "../../host/storage/images/image-store.ts";
import { foldersOf } from "../command.ts";
import { formatSize } from "../format/size.ts";
import { formatHelp, formatRows, parseFormat } from "../format/format-option.ts";
import { formatTable } from "../format/table.ts";
import { formatAgo } from "../format/time.ts";

export function define(command: Command): void {
  command
    .option("-q, --quiet", "ids alone")
    .option("--no-trunc", "whole ids")
    .option("--digests", "show digests")
    .option("--format <format>", formatHelp)
    .addHelpText("after", "\nExample:\n  casemate images --format json")
    .action((flags: { readonly quiet?: boolean; readonly trunc: boolean; readonly digests?: boolean; readonly format?: string }) => {
      const rows = new ImageStore(foldersOf(command)).list().flatMap((image) => image.names.map((name) => toRow(image, name, flags.trunc)));
      if (flags.quiet === true) process.stdout.write([...new Set(rows.map(({ ID }) => `${ID}\n`))].join(""));
      else {
        const digest = <T>(value: T): T[] => (flags.digests === true ? [value] : []);
        process.stdout.write(formatRows(rows, parseFormat(flags.format ?? "table"), () => formatTable(["REPOSITORY", "TAG", ...digest("DIGEST"), "IMAGE ID", "CREATED", "SIZE"],
          rows.map((row) => [row.Repository, row.Tag, ...digest(row.Digest), row.ID, row.CreatedSince, row.Size]), flags.trunc ? undefined : Infinity)));
      }
    });
}

function toRow(image: StoredImage, fullName: string, truncate: boolean) {
  const name = parseImageName(fullName);
  const hex = image.id.replace("sha256:", "");
  return {
    Repository: shortRepository(name),
    Tag: name.tag === "" ? "<none>" : name.tag,
    Digest: image.manifestDigest,
    ID: truncate ? hex.slice(0, 12) : `sha256:${hex}`,
    CreatedAt: image.created,
    CreatedSince: image.created === "" ? "unknown" : formatAgo(Date.parse(image.created)),
    Size: formatSize(image.sizeBytes),
    VirtualSize: formatSize(image.sizeBytes),
    // What docker prints when it has not been counted.
    Containers: "N/A",
    SharedSize: "N/A",
    UniqueSize: "N/A",
  };
}
