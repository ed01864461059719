import { createWriteStream, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { runProcess } from "../../../shared/linux/run-process.ts";
import type { StateFolders } from "../../store/paths.ts";
import { localCandidates } from "./image-name.ts";
import { ImageStore } from "./image-store.ts";
import { pullImage, type PullOptions } from "./pull.ts";

/** Some gigabytes to a slow disk. */
const saveTimeoutMs = 60 * 60_000;

/** Writes an image as an archive that docker and podman load. @throws RuntimeError `already_exists`: nothing is written over. */
export async function saveImage(folders: StateFolders, reference: string, archive: string): Promise<void> {
  if (existsSync(archive)) throw new RuntimeError("already_exists", `save image to "${archive}": the file exists`, { reason: "file_exists", hint: "remove it first" });
  const store = new ImageStore(folders);
  const image = store.require(reference);
  await store.withTemporaryFolder(`save-${process.pid}`, {}, async (folder) => {
    const layout = join(folder, "layout");
    store.writeLayout(image, layout);
    const name = localCandidates(reference).find((one) => image.names.includes(one)) ?? image.names[0] ?? `localhost/${image.id.slice(7, 19)}:latest`;
    await runProcess("skopeo", ["--tmpdir", folder, "copy", "--quiet", "--insecure-policy", `oci:${layout}`, `docker-archive:${archive}:${name}`], { timeoutMs: saveTimeoutMs });
  });
}

/** Takes the image of an archive in. Returns its names. */
export async function loadImages(folders: StateFolders, archive: string, options: PullOptions): Promise<readonly string[]> {
  const kind = await archiveKind(archive);
  const names = kind === "docker-archive" ? await dockerArchiveNames(archive) : [];
  if (names.length === 0) return (await pullImage(folders, `${kind}:${archive}`, options)).names.slice(-1);
  for (const name of names) await pullImage(folders, `${kind}:${archive}:${name}`, options);
  return names;
}

/** The same for an archive that comes as a stream. */
export async function loadFromStream(folders: StateFolders, input: NodeJS.ReadableStream, options: PullOptions): Promise<readonly string[]> {
  const folder = mkdtempSync(join(tmpdir(), "casemate-load-"));
  try {
    const archive = join(folder, "image.tar");
    await pipeline(input, createWriteStream(archive, { mode: 0o600 }));
    return await loadImages(folders, archive, options);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function archiveKind(archive: string): Promise<"docker-archive" | "oci-archive"> {
  if (!existsSync(archive)) throw new RuntimeError("not_found", `load image "${archive}": no such file`, { reason: "image_not_found", hint: "check the path" });
  const { stdout } = await runProcess("tar", ["--list", "--file", archive], { timeoutMs: saveTimeoutMs });
  return stdout.toString().split("\n").includes("manifest.json") ? "docker-archive" : "oci-archive";
}

async function dockerArchiveNames(archive: string): Promise<string[]> {
  const { stdout } = await runProcess("tar", ["--extract", "--to-stdout", "--file", archive, "manifest.json"], { timeoutMs: saveTimeoutMs });
  const manifest: unknown = JSON.parse(stdout.toString());
  return Array.isArray(manifest) ? manifest.flatMap((image: { readonly RepoTags?: readonly string[] | null }) => image.RepoTags ?? []) : []; // docker's own format
}
