import type { Command } from "commander";
import { parseImageName, shortRepository } from "../../host/storage/images/image-name.ts";
import { ImageStore, type StoredImage } from "../../host/storage/images/image-store.ts";
import { collect, foldersOf } from "../command.ts";
import { fitsLabel, fitsName, parseFilter, type Filter } from "../format/filter.ts";
import { formatSize } from "../format/size.ts";
import { formatHelp, formatRows, parseFormat } from "../format/format-option.ts";
import { formatTable } from "../format/table.ts";
import { formatAgo } from "../format/time.ts";

export function define(command: Command): void {
  command
    .argument("[name]", "only images of this name; * and ? stand for other characters")
    .option("-a, --all", "all of them, as without it: there are no intermediate ones")
    .option("-f, --filter <key=value>", "only those with this reference or label, or with dangling=true without a name", collect)
    .option("-q, --quiet", "ids alone")
    .option("--no-trunc", "whole ids")
    .option("--digests", "show digests")
    .option("--format <format>", formatHelp)
    .addHelpText("after", "\nExamples:\n  casemate images --format json\n  casemate images -q --filter reference='*/mine:*'")
    .action((name: string | undefined, flags: { readonly filter?: readonly string[]; readonly quiet?: boolean; readonly trunc: boolean; readonly digests?: boolean; readonly format?: string }) => {
      const store = new ImageStore(foldersOf(command));
      const filters = [...(flags.filter ?? []).map((text) => parseFilter(text, filterKeys)), ...(name === undefined ? [] : [{ key: "reference", value: name }])];
      const rows = store.list().flatMap((image) => (image.names.length === 0 ? [undefined] : image.names)
        .filter((own) => filters.every((filter) => matches(store, image, own, filter)))
        .map((own) => toRow(image, own, flags.trunc)));
      if (flags.quiet === true) process.stdout.write([...new Set(rows.map(({ ID }) => `${ID}\n`))].join(""));
      else {
        const digest = <T>(value: T): T[] => (flags.digests === true ? [value] : []);
        process.stdout.write(formatRows(rows, parseFormat(flags.format ?? "table"), () => formatTable(["REPOSITORY", "TAG", ...digest("DIGEST"), "IMAGE ID", "CREATED", "SIZE"],
          rows.map((row) => [row.Repository, row.Tag, ...digest(row.Digest), row.ID, row.CreatedSince, row.Size]), flags.trunc ? undefined : Infinity), { ID: "IMAGE ID", CreatedSince: "CREATED", VirtualSize: "SIZE" }));
      }
    });
}

const filterKeys = ["reference", "label", "dangling"];

function matches(store: ImageStore, image: StoredImage, name: string | undefined, { key, value }: Filter): boolean {
  if (key === "dangling") return (name === undefined) === /^(true|1)$/i.test(value);
  if (key === "reference") return name !== undefined && fitsName(shortNames(name), value);
  return fitsLabel(store.labelsOf(image), value);
}

/** What a user may call it: with and without its tag, its registry too for those made here. */
function shortNames(name: string): string[] {
  const parsed = parseImageName(name);
  const repository = shortRepository(parsed);
  return [repository, repository.replace(/^localhost\//, "")].flatMap((short) => [short, `${short}:${parsed.tag}`]);
}

function toRow(image: StoredImage, fullName: string | undefined, truncate: boolean) {
  const name = fullName === undefined ? undefined : parseImageName(fullName);
  const hex = image.id.replace("sha256:", "");
  return {
    Repository: name === undefined ? "<none>" : shortRepository(name),
    Tag: name === undefined || name.tag === "" ? "<none>" : name.tag,
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
