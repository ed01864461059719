import { existsSync, linkSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { runProcess } from "../../../shared/linux/run-process.ts";
import type { StateFolders } from "../../store/paths.ts";
import { busyboxImageName, ensureBusyboxImage } from "./busybox-image.ts";
import { formatImageName, parseImageName } from "./image-name.ts";
import { ImageStore, type RunnableImage, type StoredImage } from "./image-store.ts";

/** Options of {@link pullImage} and {@link ensureImage}. */
export interface PullOptions extends WaitOptions {
  readonly onProgress?: (what: string) => void;
}

/** Where skopeo can copy from; what has no transport is a registry's name. */
const transports = ["docker:", "oci:", "oci-archive:", "docker-archive:", "dir:", "containers-storage:", "docker-daemon:"];
/** Longest pull: some gigabytes over a slow line. */
const pullTimeoutMs = 60 * 60_000;

/** The image of that name ready to run, fetched if it is not here. `busybox` needs no registry: it is made from Debian's. */
export async function ensureImage(folders: StateFolders, reference: string, options: PullOptions = {}): Promise<RunnableImage> {
  const store = new ImageStore(folders);
  const stored = store.find(reference) ?? (isBusybox(reference) ? await ensureBusyboxImage(store) : await pullImage(folders, reference, options));
  return store.open(stored, options.onProgress);
}

/** True when the embedded image answers to that name and docker's is not stored. */
function isBusybox(reference: string): boolean {
  return ["busybox", "busybox:latest", busyboxImageName, "localhost/busybox"].includes(reference);
}

/**
 * Fetches an image with skopeo into the store. Blobs that are here already are not fetched again, an
 * interrupted pull leaves nothing but whole blobs, and a second pull of the same image waits for the first.
 * @throws RuntimeError `not_found` (reason `image_not_found`), `unauthenticated`, `unavailable`.
 */
export async function pullImage(folders: StateFolders, reference: string, options: PullOptions = {}): Promise<StoredImage> {
  const store = new ImageStore(folders);
  const { source, name } = sourceOf(reference);
  return store.exclusively(`pull-${Buffer.from(name).toString("base64url").slice(0, 200)}`, async () => {
    options.onProgress?.(`pulling ${name}`);
    const folder = store.temporaryFolder();
    try {
      lendBlobs(store, folder);
      await copy(reference, source, folder, options);
      return await store.add(name, adoptBlobs(store, folder));
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

/** What skopeo is to copy, and the name the image gets here. */
function sourceOf(reference: string): { readonly source: string; readonly name: string } {
  const transport = transports.find((prefix) => reference.startsWith(prefix));
  if (transport === undefined) {
    const name = formatImageName(parseImageName(reference));
    return { source: `docker://${name}`, name };
  }
  const rest = reference.slice(transport.length).replace(/^\/\//, "");
  if (["docker:", "containers-storage:", "docker-daemon:"].includes(transport)) return { source: reference, name: formatImageName(parseImageName(rest.replace(/^\[[^\]]*\]/, ""))) };
  // A path, with or without a name: `oci:folder:tag`, `docker-archive:file.tar:repo/name:tag`.
  const [path = "", ...tag] = rest.split(":");
  if (!existsSync(path)) throw new RuntimeError("not_found", `image "${reference}": "${path}" does not exist`, { reason: "image_not_found" });
  const base = (path.split("/").at(-1) ?? "").replace(/\.(tar|tgz|tar\.gz)$/, "").toLowerCase();
  const label = tag.join(":");
  const name = label.includes("/") || label.includes(":") ? label : `localhost/${base}:${label === "" ? "latest" : label}`;
  return { source: reference, name: formatImageName(parseImageName(name)) };
}

async function copy(reference: string, source: string, folder: string, options: PullOptions): Promise<void> {
  const insecure = /^docker:\/\/(localhost|127\.0\.0\.1|\[::1\])(:|\/)/.test(source) && !source.startsWith("docker://localhost/");
  const args = [
    "copy", "--quiet", "--retry-times", "2",
    // docker's rule: a registry on this machine need not have a certificate.
    ...(insecure ? ["--src-tls-verify=false"] : []),
    ...policy(),
    "--dest-shared-blob-dir", join(folder, "blobs"), source, `oci:${join(folder, "layout")}:image`,
  ];
  try {
    await runProcess("skopeo", args, { timeoutMs: pullTimeoutMs, ...options, cwd: process.cwd() });
  } catch (error) {
    throw classify(reference, error);
  }
}

/** A machine without a policy file would refuse every image; docker asks for no signatures either. */
function policy(): string[] {
  const home = process.env["HOME"] ?? "/root";
  return existsSync("/etc/containers/policy.json") || existsSync(join(home, ".config/containers/policy.json")) ? [] : ["--insecure-policy"];
}

/** What skopeo's message means. */
function classify(reference: string, error: unknown): RuntimeError {
  const text = error instanceof Error ? error.message : String(error);
  const step = `pull image "${reference}"`;
  if (RuntimeError.is(error, "canceled") || RuntimeError.is(error, "deadline_exceeded") || RuntimeError.is(error, "not_found")) return RuntimeError.wrap(error, step);
  const cause = new RuntimeError("unknown", shorten(text));
  if (/manifest unknown|name unknown|not found|no such file|does not exist|reference .* does not|no such image/i.test(text)) {
    return new RuntimeError("not_found", step, { cause, reason: "image_not_found", hint: "check the name; `casemate images` lists what is here, and busybox needs no registry" });
  }
  if (/unauthorized|authentication required|denied/i.test(text)) return new RuntimeError("unauthenticated", step, { cause, reason: "image_access_denied", hint: "check the name, or log in with `skopeo login REGISTRY`" });
  if (/digest|corrupt|checksum|unexpected EOF/i.test(text)) return new RuntimeError("data_loss", step, { cause, reason: "image_corrupt", hint: "the registry served something else than it announced; try again, or pull by another tag" });
  if (/no space left/i.test(text)) return new RuntimeError("resource_exhausted", step, { cause, reason: "disk_full", hint: "free some space, for example with `casemate rmi`" });
  return new RuntimeError("unavailable", step, { cause, reason: "registry_unavailable", hint: "check the name and the network; busybox needs no registry" });
}

/** skopeo logs `time="..." level=fatal msg="..."`: the message alone is for people. */
function shorten(text: string): string {
  return /msg="((?:[^"\\]|\\.)*)"/.exec(text)?.[1]?.replaceAll("\\\"", "\"") ?? text;
}

/** Shows the copy what is here already, so that it fetches only the rest. */
function lendBlobs(store: ImageStore, folder: string): void {
  const lent = join(folder, "blobs/sha256");
  mkdirSync(lent, { recursive: true });
  if (!existsSync(join(store.blobsFolder, "sha256"))) return;
  for (const name of readdirSync(join(store.blobsFolder, "sha256"))) linkSync(join(store.blobsFolder, "sha256", name), join(lent, name));
}

/** Moves the blobs of a finished copy into the store; returns the manifest's digest. */
function adoptBlobs(store: ImageStore, folder: string): string {
  const index = JSON.parse(readFileSync(join(folder, "layout/index.json"), "utf8")) as { readonly manifests?: readonly { readonly digest: string }[] }; // written by skopeo just now
  const manifest = index.manifests?.[0]?.digest;
  if (manifest === undefined) throw new RuntimeError("internal", "skopeo made an image layout without an image");
  const blobs = join(store.blobsFolder, "sha256");
  mkdirSync(blobs, { recursive: true, mode: 0o700 });
  for (const name of readdirSync(join(folder, "blobs/sha256"))) renameSync(join(folder, "blobs/sha256", name), join(blobs, name));
  return manifest;
}
