import type { Command } from "commander";
import { constants, existsSync, lstatSync, statSync } from "node:fs";
import { basename, dirname, posix } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { ContainerFileClient } from "../../host/containers/container-file-client.ts";
import { downloadTree, uploadTree } from "../../host/containers/copy-tree.ts";
import { ContainerStore, type ContainerRecord } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { withContainerFiles } from "../container-files.ts";

interface Flags {
  readonly archive?: boolean;
  readonly followLink?: boolean;
  readonly quiet?: boolean;
}

const { S_IFMT, S_IFDIR } = constants;

export function define(command: Command): void {
  command
    .argument("<source>", "a path, or CONTAINER:PATH; \"-\" reads a tar archive")
    .argument("<target>", "CONTAINER:PATH, or a path; \"-\" writes a tar archive")
    .option("-a, --archive", "keep owners")
    .option("-L, --follow-link", "copy what a source that is a link leads to")
    .option("-q, --quiet", "print no notes about the VM")
    .addHelpText("after", "\nLinks are copied as links, all in a folder also with -L. A container that does not run is started without its process for the copy.\n\nExamples:\n  casemate cp site/ web:/www\n  casemate cp web:/var/log/. logs\n  casemate cp web:/etc - | tar -t")
    .action(async (source: string, target: string, flags: Flags) => {
      const folders = foldersOf(command), followLink = flags.followLink ?? false;
      const from = parsePlace(source), to = parsePlace(target);
      if ((from.container === undefined) === (to.container === undefined)) throw new RuntimeError("invalid_argument", "copy: one of the two must be CONTAINER:PATH", { reason: "bad_copy", hint: "for example casemate cp web:/etc/hosts ." });
      const record: ContainerRecord = new ContainerStore(folders).find(from.container ?? to.container ?? "");
      if (from.container === undefined && from.path !== "-") requireSource(from.path, followLink);
      const launch = { folders, quiet: flags.quiet ?? false, debug: globalOptions(command).debug ?? false };
      await withContainerFiles(record, launch, async (files) => {
        const options = { keepOwner: flags.archive ?? false, followLink };
        if (from.container === undefined && from.path === "-") {
          const { unpackTar } = await import("../../host/containers/copy-archive.ts");
          if (!await folderThere(files, to.path)) throw noSuchFolder(to.path);
          await unpackTar(files, process.stdin, to.path, options);
        } else if (to.container === undefined && to.path === "-") {
          const { packTar } = await import("../../host/containers/copy-archive.ts");
          await packTar(files, from.path, process.stdout, { followLink });
        } else if (from.container === undefined) {
          await uploadTree(files, from.path, await targetInContainer(files, from.path, to.path), options);
        } else {
          await downloadTree(files, from.path, targetOnHost(from.path, to.path), options);
        }
      });
    });
}

interface Place {
  readonly container: string | undefined;
  /** Absolute in a container. */
  readonly path: string;
}

/** docker's rule: what has a colon before any slash names a container. */
function parsePlace(text: string): Place {
  const colon = text.indexOf(":");
  if (colon <= 0 || text.startsWith(".") || text.startsWith("/") || text.slice(0, colon).includes("/")) return { container: undefined, path: text };
  return { container: text.slice(0, colon), path: posix.join("/", text.slice(colon + 1)) + (text.endsWith("/.") ? "/." : "") };
}

/** Before a container is started for the copy. */
function requireSource(path: string, followLink: boolean): void {
  try {
    (followLink ? statSync : lstatSync)(path);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) throw new RuntimeError("not_found", `copy "${path}": no such file or folder`, { reason: "no_such_file", hint: "containers are written as CONTAINER:PATH" });
    throw RuntimeError.wrap(error, `copy "${path}"`);
  }
}

function noSuchFolder(target: string): RuntimeError {
  const folder = target.endsWith("/") ? target : dirname(target);
  return new RuntimeError("not_found", `copy to "${target}": no such folder`, { reason: "no_such_folder", hint: `make ${folder} first` });
}

/** `folder/.` means what is in it; then the target is the folder itself. */
const contentOnly = (path: string): boolean => path === "." || path.endsWith("/.");

async function targetInContainer(files: ContainerFileClient, source: string, target: string): Promise<string> {
  const isFolder = await folderThere(files, target);
  if (!isFolder && target.endsWith("/")) throw noSuchFolder(target);
  return isFolder && !contentOnly(source) ? posix.join(target, basename(source)) : target;
}

async function folderThere(files: ContainerFileClient, path: string): Promise<boolean> {
  try {
    return ((await files.stat(path)).mode & S_IFMT) === S_IFDIR;
  } catch (error) {
    if (RuntimeError.is(error, "not_found")) return false;
    throw error;
  }
}

function targetOnHost(source: string, target: string): string {
  const isFolder = statSync(target, { throwIfNoEntry: false })?.isDirectory() ?? false;
  if (!isFolder && (target.endsWith("/") || !existsSync(dirname(target)))) throw noSuchFolder(target);
  return isFolder && !contentOnly(source) && source !== "/" ? `${target}/${basename(source)}` : target;
}
