import { createWriteStream, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { runProcess } from "../../../shared/linux/run-process.ts";
import type { StateFolders } from "../../store/paths.ts";
import { formatImageName, localCandidates, parseImageName } from "./image-name.ts";
import { ImageStore, type StoredImage } from "./image-store.ts";
import { pullImage, type PullOptions } from "./pull.ts";

/** Some gigabytes to a slow disk. */
const saveTimeoutMs = 60 * 60_000;

/** manifest.json of docker's archives: an entry for each image. */
type DockerManifest = readonly { readonly RepoTags?: readonly string[] | null }[];

/** Writes images as one archive that docker and podman load, in place of a file that is there. An image named twice is in it once, with both names. @throws RuntimeError `not_found` (reason `image_not_found`). */
export async function saveImages(folders: StateFolders, references: readonly string[], archive: string): Promise<void> {
  if (existsSync(archive) && !statSync(archive).isFile()) throw new RuntimeError("invalid_argument", `save images to "${archive}": it is no file`, { reason: "bad_option", hint: "name a file, or leave out -o and redirect the output" });
  const store = new ImageStore(folders);
  const images = Map.groupBy(references.map((reference) => ({ reference, image: store.require(reference) })), ({ image }) => image.manifestDigest);
  const half = `${archive}.${process.pid}.part`;
  try {
    await store.withTemporaryFolder(`save-${process.pid}`, {}, async (folder) => {
      const parts = [...images.values()].map((named, index) => ({ path: images.size === 1 ? half : join(folder, `${index}.tar`), named }));
      for (const { path, named } of parts) await saveOne(store, named, path, folder);
      if (parts.length > 1) await joinArchives(parts.map(({ path }) => path), half, join(folder, "all"));
    });
    renameSync(half, archive);
  } finally {
    rmSync(half, { force: true });
  }
}

async function saveOne(store: ImageStore, named: readonly { readonly reference: string; readonly image: StoredImage }[], path: string, folder: string): Promise<void> {
  const [first] = named;
  if (first === undefined) return;
  const { image } = first;
  const layout = join(folder, "layout");
  store.writeLayout(image, layout);
  const [name = "", ...others] = new Set(named.map(({ reference }) => localCandidates(reference).find((one) => image.names.includes(one)) ?? image.names[0] ?? `localhost/${image.id.slice(7, 19)}:latest`));
  await runProcess("skopeo", ["--tmpdir", folder, "copy", "--quiet", "--insecure-policy", ...others.flatMap((other) => ["--additional-tag", other]), `oci:${layout}`, `docker-archive:${path}:${name}`], { timeoutMs: saveTimeoutMs });
  rmSync(layout, { recursive: true });
}

/** Joins docker's archives of one image each: their files are named by content, and their manifests are lists. */
async function joinArchives(archives: readonly string[], path: string, folder: string): Promise<void> {
  mkdirSync(folder);
  const manifest: unknown[] = [];
  for (const archive of archives) {
    // A later one may hold the same layer: then it is the same file.
    await runProcess("tar", ["--extract", "--file", archive, "--directory", folder], { timeoutMs: saveTimeoutMs });
    rmSync(archive);
    manifest.push(...JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")) as DockerManifest); // skopeo has just written it
  }
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest));
  rmSync(join(folder, "repositories"), { force: true }); // of docker before 1.10, and of the last image alone
  await runProcess("tar", ["--create", "--file", path, "--directory", folder, "."], { timeoutMs: saveTimeoutMs });
}

/** Takes all images of an archive in. Returns their names. */
export async function loadImages(folders: StateFolders, archive: string, options: PullOptions): Promise<readonly string[]> {
  const store = new ImageStore(folders);
  const loaded: string[] = [];
  for (const { source, moreNames } of await imagesIn(archive)) {
    const { names } = await pullImage(folders, source, options);
    const name = names.at(-1) ?? "";
    for (const more of moreNames) await store.tag(name, formatImageName(parseImageName(more)));
    loaded.push(name, ...moreNames);
  }
  return loaded;
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

/** What to pull of an archive: a source for each image, and the names it has there beside that of the source. */
async function imagesIn(archive: string): Promise<{ readonly source: string; readonly moreNames: readonly string[] }[]> {
  if (!existsSync(archive)) throw new RuntimeError("not_found", `load image "${archive}": no such file`, { reason: "image_not_found", hint: "check the path" });
  const { exitCode, stdout, stderr } = await runProcess("tar", ["--list", "--file", archive], { timeoutMs: saveTimeoutMs, okExitCodes: [0, 2] });
  if (exitCode !== 0) throw new RuntimeError("invalid_argument", `load image "${archive}": ${stderr.trim().split("\n")[0] ?? ""}`, { reason: "bad_archive", hint: "give an archive that docker, podman or casemate has saved" });
  const files = stdout.toString().split("\n");
  const manifestPath = ["manifest.json", "./manifest.json"].find((path) => files.includes(path));
  if (manifestPath !== undefined) {
    const manifest = await readJson(archive, manifestPath);
    const images: DockerManifest = Array.isArray(manifest) ? manifest : []; // docker's own format
    return images.map(({ RepoTags: tags }, index) => {
      const [name, ...moreNames] = tags ?? [];
      // skopeo's way to name one of several that have no name.
      return { source: `docker-archive:${archive}${name === undefined ? images.length === 1 ? "" : `:@${index}` : `:${name}`}`, moreNames };
    });
  }
  if (!files.some((path) => /^(\.\/)?index\.json$/.test(path))) throw new RuntimeError("invalid_argument", `load image "${archive}": it holds no image`, { reason: "bad_archive", hint: "give an archive that docker, podman or casemate has saved" });
  const index = await readJson(archive, files.find((path) => /^(\.\/)?index\.json$/.test(path)) ?? "index.json") as { readonly manifests?: readonly { readonly annotations?: Readonly<Record<string, string>> }[] }; // OCI image-spec, image-layout.md
  const names = (index.manifests ?? []).map(({ annotations }) => annotations?.["org.opencontainers.image.ref.name"] ?? "");
  return names.length <= 1 ? [{ source: `oci-archive:${archive}`, moreNames: [] }] : names.map((name) => ({ source: `oci-archive:${archive}:${name}`, moreNames: [] }));
}

async function readJson(archive: string, path: string): Promise<unknown> {
  const { stdout } = await runProcess("tar", ["--extract", "--to-stdout", "--file", archive, path], { timeoutMs: saveTimeoutMs });
  return JSON.parse(stdout.toString());
}
