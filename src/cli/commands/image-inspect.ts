import type { Command } from "commander";
import { parseImageName, shortRepository, shownName } from "../../host/storage/images/image-name.ts";
import { ImageStore, type StoredImage } from "../../host/storage/images/image-store.ts";
import type { StateFolders } from "../../host/store/paths.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { exitCodes, exitWith, reportError } from "../exit.ts";
import { formatHelp, formatObjects, parseFormat } from "../format/format-option.ts";

export function define(command: Command): void {
  command
    .argument("<image...>", "names or ids")
    .option("-f, --format <format>", formatHelp, "json")
    .action(async (references: readonly string[], flags: { readonly format: string }) => {
      const found: object[] = [];
      let failed = false;
      for (const reference of references) {
        try {
          found.push(inspectImage(foldersOf(command), reference));
        } catch (error) {
          reportError(error, globalOptions(command).debug ?? false);
          failed = true;
        }
      }
      process.stdout.write(formatObjects(found, parseFormat(flags.format)));
      await exitWith(failed ? exitCodes.someFailed : 0);
    });
}

/** What docker's inspect says of that image. @throws RuntimeError `not_found` (reason `image_not_found`). */
export function inspectImage(folders: StateFolders, reference: string): object {
  const store = new ImageStore(folders);
  const image = store.require(reference);
  return describe(image, store.readConfig(image));
}

/** The image's own configuration, as its maker wrote it (OCI image-spec, config.md). */
interface RawConfig {
  readonly architecture?: string;
  readonly os?: string;
  readonly author?: string;
  readonly config?: Readonly<Record<string, unknown>>;
  readonly rootfs?: { readonly diff_ids?: readonly string[] };
  readonly history?: readonly { readonly comment?: string }[];
}

function describe(image: StoredImage, parsed: unknown): object {
  const raw = parsed as RawConfig; // a blob whose digest was checked; its fields are only shown
  const tags = image.names.filter((name) => !name.includes("@")).map(shownName);
  const repositories = [...new Set(image.names.map((name) => shortRepository(parseImageName(name))))];
  return {
    Id: image.id,
    RepoTags: tags,
    RepoDigests: repositories.map((repository) => `${repository}@${image.manifestDigest}`),
    Parent: "",
    Comment: raw.history?.at(-1)?.comment ?? "",
    Created: image.created,
    DockerVersion: "",
    Author: raw.author ?? "",
    // What docker shows of every image, whether it says something of it or not.
    Config: { User: "", Env: null, Cmd: null, Volumes: null, WorkingDir: "", Entrypoint: null, Labels: null, ...raw.config },
    Architecture: raw.architecture ?? "",
    Os: raw.os ?? "",
    Size: image.sizeBytes,
    RootFS: { Type: "layers", Layers: raw.rootfs?.diff_ids ?? [] },
    Metadata: { LastTagTime: "0001-01-01T00:00:00Z" },
  };
}
