import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { eventually } from "../../../shared/base/deadline.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { writeFileAtomic } from "../../../shared/linux/atomic-file.ts";
import { flockExclusive } from "../../../shared/linux/flock.ts";
import { readVersioned } from "../../store/container-store.ts";
import type { StateFolders } from "../../store/paths.ts";
import { parseImageConfig, type ImageConfig } from "./image-config.ts";
import { localCandidates } from "./image-name.ts";
import { makeRootImage, rootFileSystem } from "./root-image.ts";

/** An image of the store. */
export interface StoredImage {
  /** Whole names, e.g. `docker.io/library/busybox:latest`; none when the last one was taken away. */
  readonly names: readonly string[];
  readonly manifestDigest: string;
  /** sha256 of the config: docker's image id. */
  readonly id: string;
  readonly sizeBytes: number;
  /** RFC 3339, or empty. */
  readonly created: string;
}

/** An image with what is needed to run it. */
export interface RunnableImage {
  readonly id: string;
  readonly manifestDigest: string;
  readonly config: ImageConfig;
  readonly rootfs: { readonly path: string; readonly fsType: string };
}

interface Index { readonly version: 1; readonly images: readonly StoredImage[] }
interface Manifest { readonly config: { readonly digest: string; readonly size: number }; readonly layers: readonly { readonly digest: string; readonly size: number }[] }

/** Making a large image takes minutes; whoever waits for it waits as long. */
const lockTimeoutMs = 30 * 60_000;
const digestPattern = /^sha256:([0-9a-f]{64})$/;

/** Container images on this machine: blobs by digest, an index of names, and one root file system per image. */
export class ImageStore {
  readonly #folder: string;

  constructor(folders: StateFolders) {
    this.#folder = join(folders.data, "images");
  }

  get blobsFolder(): string {
    return join(this.#folder, "blobs");
  }

  /** A folder for something half made; leftovers of those who died are cleared when the next one asks. */
  temporaryFolder(): string {
    const folder = join(this.#folder, `tmp/${process.pid}-${performance.now()}`);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    return folder;
  }

  list(): readonly StoredImage[] {
    return this.#readIndex().images;
  }

  /** The stored image a name, id or unique id prefix means; names are tried first. Undefined when there is none. */
  find(reference: string): StoredImage | undefined {
    const images = this.list();
    const byId = /^(sha256:)?[0-9a-f]{6,64}$/.test(reference) ? images.filter(({ id }) => id.slice(7).startsWith(reference.replace("sha256:", ""))) : [];
    const candidates = byId.length > 0 && !/^[a-z]/.test(reference) ? [] : candidatesOf(reference);
    for (const name of candidates) {
      const found = images.find(({ names, manifestDigest }) => names.includes(name) || (name.includes("@") && name.endsWith(manifestDigest)));
      if (found !== undefined) return found;
    }
    if (byId.length > 1) throw new RuntimeError("invalid_argument", `image id "${reference}" is ambiguous: ${byId.length} images begin with it`, { reason: "ambiguous_id" });
    return byId[0];
  }

  /** The image's config and its root file system, made now if this is the first use. */
  async open(image: StoredImage, onProgress: (what: string) => void = () => undefined): Promise<RunnableImage> {
    const { config, layers } = this.#readManifest(image.manifestDigest);
    const parsed = parseImageConfig(this.#readBlob(config.digest).toString());
    if (parsed.diffIds.length !== layers.length) throw new RuntimeError("data_loss", `image "${image.id}": ${layers.length} layers, its config names ${parsed.diffIds.length}`, { reason: "image_corrupt", hint: "remove the image and pull it again" });
    const path = join(this.#folder, "rootfs", `${hexOf(image.manifestDigest)}.${rootFileSystem}`);
    if (!existsSync(path)) {
      await this.#locked(`rootfs-${hexOf(image.manifestDigest)}`, async () => {
        if (existsSync(path)) return;
        onProgress("preparing the image");
        mkdirSync(join(this.#folder, "rootfs"), { recursive: true, mode: 0o711 });
        this.#clearHalfMade(join(this.#folder, "rootfs"));
        await makeRootImage(layers.map((layer, index) => ({ path: this.#blobPath(layer.digest), digest: layer.digest, diffId: parsed.diffIds[index] ?? "" })), path);
      });
    }
    return { id: image.id, manifestDigest: image.manifestDigest, config: parsed, rootfs: { path, fsType: rootFileSystem } };
  }

  /** Enters an image whose blobs are there; the name is taken from another image that had it. */
  async add(name: string, manifestDigest: string): Promise<StoredImage> {
    const manifest = this.#readManifest(manifestDigest);
    const config = parseImageConfig(this.#readBlob(manifest.config.digest).toString());
    return this.#locked("index", async () => {
      const others = this.list().map((image) => ({ ...image, names: image.names.filter((other) => other !== name) }));
      const before = others.find((image) => image.manifestDigest === manifestDigest);
      const image: StoredImage = {
        names: [...before?.names ?? [], name],
        manifestDigest,
        id: manifest.config.digest,
        sizeBytes: manifest.layers.reduce((sum, layer) => sum + layer.size, 0),
        created: config.created,
      };
      this.#writeIndex([...others.filter((other) => other !== before), image]);
      return image;
    });
  }

  /**
   * Takes a name away, or with an id the whole image; what nothing refers to any more is deleted.
   * @throws RuntimeError `not_found` (reason `image_not_found`), `failed_precondition` (reason `image_in_use`).
   */
  async remove(reference: string, options: { readonly force: boolean; readonly usedBy: (manifestDigest: string) => readonly string[] }): Promise<{ readonly untagged: readonly string[]; readonly deleted: string | undefined }> {
    return this.#locked("index", async () => {
      const image = this.find(reference);
      if (image === undefined) throw new RuntimeError("not_found", `no such image: ${reference}`, { reason: "image_not_found", hint: "`casemate images` lists the images" });
      const byName = candidatesOf(reference).find((name) => image.names.includes(name));
      const untagged = byName === undefined ? image.names : [byName];
      const left = image.names.filter((name) => !untagged.includes(name));
      const users = options.usedBy(image.manifestDigest);
      if (left.length === 0 && users.length > 0 && !options.force) throw new RuntimeError("failed_precondition", `image "${reference}" is used by container ${users.join(", ")}`, { reason: "image_in_use", hint: "remove the container first" });
      const others = this.list().filter((other) => other.manifestDigest !== image.manifestDigest);
      this.#writeIndex(left.length === 0 ? others : [...others, { ...image, names: left }]);
      if (left.length > 0) return { untagged, deleted: undefined };
      this.#deleteContent(image, others);
      return { untagged, deleted: image.id };
    });
  }

  /** Stores bytes under their digest, and returns it. */
  writeBlob(bytes: Uint8Array): string {
    const hex = createHash("sha256").update(bytes).digest("hex");
    mkdirSync(join(this.blobsFolder, "sha256"), { recursive: true, mode: 0o700 });
    const path = this.#blobPath(`sha256:${hex}`);
    if (!existsSync(path)) {
      writeFileSync(`${path}.tmp-${process.pid}`, bytes);
      renameSync(`${path}.tmp-${process.pid}`, path);
    }
    return `sha256:${hex}`;
  }

  /** Runs work while no other process does work of that name. */
  async exclusively<T>(what: string, work: () => Promise<T>): Promise<T> {
    return this.#locked(what, work);
  }

  #deleteContent(image: StoredImage, others: readonly StoredImage[]): void {
    const blobsOf = (digest: string): string[] => {
      const manifest = this.#readManifest(digest);
      return [digest, manifest.config.digest, ...manifest.layers.map((layer) => layer.digest)];
    };
    const kept = new Set(others.flatMap((other) => blobsOf(other.manifestDigest)));
    for (const digest of blobsOf(image.manifestDigest)) if (!kept.has(digest)) rmSync(this.#blobPath(digest), { force: true });
    // A container that still uses it has it open, and keeps it for as long as it runs.
    rmSync(join(this.#folder, "rootfs", `${hexOf(image.manifestDigest)}.${rootFileSystem}`), { force: true });
  }

  #readIndex(): Index {
    return (readVersioned(join(this.#folder, "index.json")) as Index | undefined) ?? { version: 1, images: [] }; // written below alone
  }

  #writeIndex(images: readonly StoredImage[]): void {
    const index: Index = { version: 1, images };
    writeFileAtomic(join(this.#folder, "index.json"), JSON.stringify(index, undefined, 1));
  }

  #readManifest(digest: string): Manifest {
    const manifest = JSON.parse(this.#readBlob(digest).toString()) as Partial<Manifest>; // checked here and by the digest
    if (typeof manifest.config?.digest !== "string" || !Array.isArray(manifest.layers)) throw new RuntimeError("data_loss", `image manifest "${digest}" names no config and layers`, { reason: "image_corrupt", hint: "pull the image again" });
    return { config: manifest.config, layers: manifest.layers };
  }

  /** Reads a small blob and checks it. */
  #readBlob(digest: string): Buffer {
    const path = this.#blobPath(digest);
    if (!existsSync(path)) throw new RuntimeError("data_loss", `image blob "${digest}" is missing`, { reason: "image_corrupt", hint: "remove the image and pull it again" });
    const bytes = readFileSync(path);
    if (`sha256:${createHash("sha256").update(bytes).digest("hex")}` !== digest) throw new RuntimeError("data_loss", `image blob "${digest}" is corrupt`, { reason: "image_corrupt", hint: "remove the image and pull it again" });
    return bytes;
  }

  #blobPath(digest: string): string {
    return join(this.blobsFolder, "sha256", hexOf(digest));
  }

  async #locked<T>(name: string, work: () => Promise<T>): Promise<T> {
    const locks = join(this.#folder, "locks");
    mkdirSync(locks, { recursive: true, mode: 0o700 });
    const lock = await eventually(`wait for another process that works on images (${name})`, () => flockExclusive(join(locks, name)), { timeoutMs: lockTimeoutMs, intervalMs: 50 });
    try {
      return await work();
    } finally {
      closeSync(lock);
    }
  }

  #clearHalfMade(folder: string): void {
    for (const name of readdirSync(folder)) {
      // Another image's maker may be at work beside us; what it makes is younger than an hour.
      if (name.startsWith(".new-") && Date.now() - statSync(join(folder, name)).mtimeMs > 3_600_000) rmSync(join(folder, name), { recursive: true, force: true });
    }
  }
}

/** The whole names a reference may mean; none for what is no name. */
function candidatesOf(reference: string): string[] {
  try {
    return localCandidates(reference);
  } catch (error) {
    if (RuntimeError.is(error, "invalid_argument")) return [];
    throw error;
  }
}

function hexOf(digest: string): string {
  const hex = digestPattern.exec(digest)?.[1];
  if (hex === undefined) throw new RuntimeError("data_loss", `"${digest}" is no sha256 digest`, { reason: "image_corrupt" });
  return hex;
}
