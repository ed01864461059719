import { createReadStream, createWriteStream, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, posix } from "node:path";
import { pipeline } from "node:stream/promises";
import { RuntimeError } from "../../shared/base/errors.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import type { ContainerFileClient } from "./container-file-client.ts";
import { downloadTree, uploadTree, type CopyOptions } from "./copy-tree.ts";

/** An archive passes through a folder of this machine; large ones take their time. */
const tarTimeoutMs = 60 * 60_000;

/**
 * Unpacks a tar archive into a folder of a container. GNU tar makes the tree on this machine first, where
 * it refuses names that lead out of the folder, so no format has to be read twice. Owners can be kept by root alone.
 */
export async function unpackTar(files: ContainerFileClient, input: NodeJS.ReadableStream, target: string, options: CopyOptions): Promise<void> {
  const { keepOwner = false } = options;
  if (keepOwner && !isRoot()) throw new RuntimeError("unimplemented", "copy an archive: only root can keep its owners", { reason: "needs_root", hint: "leave -a out" });
  await inTemporaryFolder(async (folder) => {
    const archive = join(folder, "archive.tar"), tree = join(folder, "tree");
    await pipeline(input, createWriteStream(archive, { mode: 0o600 }));
    mkdirSync(tree);
    await runProcess("tar", ["--extract", "--file", archive, "--directory", tree, keepOwner ? "--same-owner" : "--no-same-owner", "--numeric-owner", "--delay-directory-restore"], { timeoutMs: tarTimeoutMs });
    for (const name of readdirSync(tree)) await uploadTree(files, join(tree, name), posix.join(target, name), options);
  });
}

/** Writes a file or folder of a container as a tar archive, with its own name in it, as docker does; owners too, for root. */
export async function packTar(files: ContainerFileClient, source: string, output: NodeJS.WritableStream, options: Pick<CopyOptions, "followLink">): Promise<void> {
  await inTemporaryFolder(async (folder) => {
    const archive = join(folder, "archive.tar"), tree = join(folder, "tree");
    mkdirSync(tree);
    const name = source.endsWith("/.") || source === "/" ? "." : basename(source);
    await downloadTree(files, source, join(tree, name), { ...options, keepOwner: isRoot() });
    await runProcess("tar", ["--create", "--file", archive, "--directory", tree, ...(isRoot() ? [] : ["--owner=0", "--group=0"]), "--numeric-owner", "--", name], { timeoutMs: tarTimeoutMs });
    await pipeline(createReadStream(archive), output, { end: false });
  });
}

const isRoot = (): boolean => process.getuid?.() === 0;

async function inTemporaryFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "casemate-copy-"));
  try {
    await work(folder);
  } catch (error) {
    throw RuntimeError.wrap(error, "copy an archive");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
