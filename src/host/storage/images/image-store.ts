import { createHash } from "node:crypto";
import { closeSync, createReadStream, existsSync, fstatSync, linkSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { eventually, type WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError, isErrnoException } from "../../../shared/base/errors.ts";
import { writeFileAtomic } from "../../../shared/linux/atomic-file.ts";
import { flockExclusive } from "../../../shared/linux/flock.ts";
import { readStateFile } from "../../store/state-file.ts";
import type { StateFolders } from "../../store/paths.ts";
import { storageError } from "../../store/storage-error.ts";
import { parseHealthcheck, parseImageConfig, parseImageManifest, type ImageConfig } from "./image-config.ts";
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
  /** docker's HEALTHCHECK, where the configuration here lacks it: it is no part of the OCI's format. */
  readonly healthcheck?: unknown;
}

/** An image with what is needed to run it. */
export interface RunnableImage {
  readonly id: string;
  readonly manifestDigest: string;
  readonly config: ImageConfig;
  readonly rootfs: { readonly path: string; readonly fsType: string };
}

interface Index { readonly version: 1; readonly images: readonly StoredImage[] }

/** Making a large image takes minutes; whoever waits for it waits as long. */
const lockTimeoutMs = 30 * 60_000;

/** Container images on this machine: blobs by digest, an index of names, and one root file system per image. */
export class ImageStore {
  readonly #folder: string;

  constructor(folders: StateFolders) {
    this.#folder = join(folders.data, "images");
  }

  /**
   * Runs work while no other process does work of that name, in an empty folder beside the blobs that is
   * removed afterwards. Folders of those who died are cleared by whoever comes next.
   */
  async withTemporaryFolder<T>(name: string, options: WaitOptions, work: (folder: string) => Promise<T>): Promise<T> {
    return this.#locked(name, options, async () => {
      const parent = join(this.#folder, "tmp");
      const folder = join(parent, name);
      mkdirSync(parent, { recursive: true, mode: 0o700 });
      this.#clearTemporaryFolders(parent);
      rmSync(folder, { recursive: true, force: true });
      mkdirSync(folder, { mode: 0o700 });
      try {
        return await work(folder);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
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

  /**
   * The image's config and its root file system, made now if this is the first use. A blob found to be
   * damaged is deleted, so that the next pull fetches it.
   * @throws RuntimeError `data_loss` (reason `image_corrupt`), `resource_exhausted`, `canceled`.
   */
  async open(image: StoredImage, onProgress: (what: string) => void = () => undefined, options: WaitOptions = {}): Promise<RunnableImage> {
    const { config, layers } = parseImageManifest(this.#readBlob(image.manifestDigest).toString());
    const inBlob = parseImageConfig(this.#readBlob(config.digest).toString());
    const parsed = inBlob.healthcheck !== undefined || image.healthcheck === undefined ? inBlob : { ...inBlob, healthcheck: parseHealthcheck(image.healthcheck) };
    if (parsed.diffIds.length !== layers.length) throw new RuntimeError("data_loss", `image "${image.id}": ${layers.length} layers, its config names ${parsed.diffIds.length}`, { reason: "image_corrupt", hint: "remove the image and pull it again" });
    const path = this.#rootfsPath(image.manifestDigest);
    if (!existsSync(path)) {
      await this.withTemporaryFolder(`rootfs-${hexOf(image.manifestDigest)}`, options, async (folder) => {
        if (existsSync(path)) return;
        onProgress("preparing the image");
        const blobs = layers.map((layer, index) => ({ path: this.#blobPath(layer.digest), digest: layer.digest, diffId: parsed.diffIds[index] ?? "" }));
        try {
          const made = await makeRootImage(blobs, folder, options);
          mkdirSync(join(this.#folder, "rootfs"), { recursive: true, mode: 0o711 });
          renameSync(made, path);
        } catch (error) {
          if (RuntimeError.is(error, "data_loss")) await this.#deleteDamaged(blobs.map(({ digest }) => digest));
          throw storageError(error, `prepare image "${image.names[0] ?? image.id}"`);
        }
      });
    }
    return { id: image.id, manifestDigest: image.manifestDigest, config: parsed, rootfs: { path, fsType: rootFileSystem } };
  }

  /**
   * Enters an image whose blobs are in a temporary folder's `sha256`, named by their digests, and moves
   * them from there. The name is taken from another image that had it.
   */
  async add(name: string, manifestDigest: string, folder: string, extra: Pick<StoredImage, "healthcheck"> = {}): Promise<StoredImage> {
    return this.#locked("index", {}, async () => {
      // With the lock held, so that nobody takes the blobs for garbage before the index names them.
      this.#adoptBlob(manifestDigest, folder);
      const manifest = parseImageManifest(this.#readBlob(manifestDigest).toString());
      for (const { digest } of [manifest.config, ...manifest.layers]) this.#adoptBlob(digest, folder);
      const config = parseImageConfig(this.#readBlob(manifest.config.digest).toString());
      const others = this.list().map((image) => ({ ...image, names: image.names.filter((other) => other !== name) }));
      const before = others.find((image) => image.manifestDigest === manifestDigest);
      const image: StoredImage = {
        names: [...before?.names ?? [], name],
        manifestDigest,
        id: manifest.config.digest,
        sizeBytes: manifest.layers.reduce((sum, layer) => sum + layer.sizeBytes, 0),
        created: config.created,
        ...extra,
      };
      this.#writeIndex([...others.filter((other) => other !== before), image]);
      return image;
    });
  }

  /** Gives an image one more name, which is taken from another that had it. @throws RuntimeError `not_found` (reason `image_not_found`). */
  async tag(reference: string, name: string): Promise<void> {
    await this.#locked("index", {}, async () => {
      const image = this.require(reference);
      const others = this.list().filter(({ manifestDigest }) => manifestDigest !== image.manifestDigest).map((other) => ({ ...other, names: other.names.filter((one) => one !== name) }));
      this.#writeIndex([...others, { ...image, names: [...new Set([...image.names, name])] }]);
    });
  }

  /** As {@link find}. @throws RuntimeError `not_found` (reason `image_not_found`). */
  require(reference: string): StoredImage {
    const image = this.find(reference);
    if (image === undefined) throw new RuntimeError("not_found", `no such image: ${reference}`, { reason: "image_not_found", hint: "`casemate images` lists the images" });
    return image;
  }

  /** An image's config as its maker wrote it. */
  readConfig(image: StoredImage): unknown {
    const { config } = parseImageManifest(this.#readBlob(image.manifestDigest).toString());
    const read = JSON.parse(this.#readBlob(config.digest).toString()) as { readonly config?: object }; // checked when it was added
    return image.healthcheck === undefined ? read : { ...read, config: { ...read.config, Healthcheck: image.healthcheck } };
  }

  /** Labels of its configuration. */
  labelsOf(image: StoredImage): Readonly<Record<string, string>> {
    const { config } = this.readConfig(image) as { readonly config?: { readonly Labels?: Readonly<Record<string, string>> | null } }; // checked when it was added
    return config?.Labels ?? {};
  }

  /** Lays an image out by the OCI's rules in an empty folder; its blobs are links to those of the store. */
  writeLayout(image: StoredImage, folder: string): void {
    const blobs = join(folder, "blobs/sha256");
    mkdirSync(blobs, { recursive: true });
    const manifest = this.#readBlob(image.manifestDigest);
    for (const digest of [image.manifestDigest, ...this.#contentOf(image.manifestDigest)]) if (!existsSync(join(blobs, hexOf(digest)))) linkSync(this.#blobPath(digest), join(blobs, hexOf(digest)));
    const mediaType = (JSON.parse(manifest.toString()) as { readonly mediaType?: string }).mediaType ?? "application/vnd.oci.image.manifest.v1+json"; // checked by contentOf
    writeFileAtomic(join(folder, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
    writeFileAtomic(join(folder, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType, digest: image.manifestDigest, size: manifest.length }] }));
  }

  /** Links the layers and configs that are here into a folder, by digest. Manifests not: whoever copies an image writes its own. */
  lendBlobs(folder: string): void {
    mkdirSync(folder, { recursive: true });
    const digests = new Set(this.list().flatMap((image) => this.#contentOf(image.manifestDigest)));
    for (const digest of digests) {
      try {
        linkSync(this.#blobPath(digest), join(folder, hexOf(digest)));
      } catch (error) {
        if (!isErrnoException(error, "ENOENT")) throw error; // removed since the list was read, or found damaged
      }
    }
  }

  /**
   * Takes a name away, or with an id the whole image; what nothing refers to any more is deleted.
   * @throws RuntimeError `not_found` (reason `image_not_found`), `failed_precondition` (reason `image_in_use`).
   */
  async remove(reference: string, options: { readonly force: boolean; readonly usedBy: (manifestDigest: string) => readonly string[] }): Promise<{ readonly untagged: readonly string[]; readonly deleted: string | undefined }> {
    return this.#locked("index", {}, async () => {
      const image = this.find(reference);
      if (image === undefined) throw new RuntimeError("not_found", `no such image: ${reference}`, { reason: "image_not_found", hint: "`casemate images` lists the images" });
      const byName = candidatesOf(reference).find((name) => image.names.includes(name));
      const untagged = byName === undefined ? image.names : [byName];
      const left = image.names.filter((name) => !untagged.includes(name));
      const users = options.usedBy(image.manifestDigest);
      if (left.length === 0 && users.length > 0 && !options.force) throw new RuntimeError("failed_precondition", `image "${reference}" is used by ${users.join(", ")}`, { reason: "image_in_use", hint: "remove what uses it first" });
      const others = this.list().filter((other) => other.manifestDigest !== image.manifestDigest);
      this.#writeIndex(left.length === 0 ? others : [...others, { ...image, names: left }]);
      if (left.length > 0) return { untagged, deleted: undefined };
      this.#deleteGarbage(others);
      return { untagged, deleted: image.id };
    });
  }

  /** Deletes what no image of the index needs. A container that still uses a root image has it open, and keeps it for as long as it runs. */
  #deleteGarbage(images: readonly StoredImage[]): void {
    const blobs = new Set(images.flatMap(({ manifestDigest }) => [manifestDigest, ...this.#contentOf(manifestDigest)]).map(hexOf));
    const roots = new Set(images.map(({ manifestDigest }) => this.#rootfsPath(manifestDigest)));
    for (const name of namesIn(join(this.#folder, "blobs/sha256"))) if (!blobs.has(name)) rmSync(join(this.#folder, "blobs/sha256", name), { force: true });
    for (const name of namesIn(join(this.#folder, "rootfs"))) if (!roots.has(join(this.#folder, "rootfs", name))) rmSync(join(this.#folder, "rootfs", name), { force: true });
  }

  /** Digests of an image's config and layers; none when its manifest is damaged: then it must be pulled again anyway. */
  #contentOf(manifestDigest: string): string[] {
    try {
      const { config, layers } = parseImageManifest(this.#readBlob(manifestDigest).toString());
      return [config.digest, ...layers.map(({ digest }) => digest)];
    } catch (error) {
      if (RuntimeError.is(error, "data_loss")) return [];
      throw error;
    }
  }

  #readIndex(): Index {
    return (readStateFile(join(this.#folder, "index.json")) as Index | undefined) ?? { version: 1, images: [] }; // written below alone
  }

  #writeIndex(images: readonly StoredImage[]): void {
    const index: Index = { version: 1, images };
    writeFileAtomic(join(this.#folder, "index.json"), JSON.stringify(index, undefined, 1));
  }

  /** Reads a small blob and checks it. */
  #readBlob(digest: string): Buffer {
    const path = this.#blobPath(digest);
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch (error) {
      if (!isErrnoException(error, "ENOENT")) throw RuntimeError.wrap(error, `read image blob "${digest}"`);
      throw new RuntimeError("data_loss", `image blob "${digest}" is missing`, { reason: "image_corrupt", hint: "pull the image again" });
    }
    if (`sha256:${createHash("sha256").update(bytes).digest("hex")}` === digest) return bytes;
    rmSync(path, { force: true });
    throw new RuntimeError("data_loss", `image blob "${digest}" is corrupt`, { reason: "image_corrupt", hint: "pull the image again" });
  }

  #adoptBlob(digest: string, folder: string): void {
    mkdirSync(join(this.#folder, "blobs/sha256"), { recursive: true, mode: 0o700 });
    try {
      renameSync(join(folder, "sha256", hexOf(digest)), this.#blobPath(digest));
    } catch (error) {
      // An image may name one layer twice.
      if (!isErrnoException(error, "ENOENT") || !existsSync(this.#blobPath(digest))) throw RuntimeError.wrap(error, `store image blob "${digest}"`);
    }
  }

  /** Deletes those blobs that are not what their names say. */
  async #deleteDamaged(digests: readonly string[]): Promise<void> {
    for (const digest of digests) {
      const path = this.#blobPath(digest);
      if (!existsSync(path)) continue;
      const hash = createHash("sha256");
      await pipeline(createReadStream(path), hash);
      if (`sha256:${hash.digest("hex")}` !== digest) rmSync(path, { force: true });
    }
  }

  #blobPath(digest: string): string {
    return join(this.#folder, "blobs/sha256", hexOf(digest));
  }

  #rootfsPath(manifestDigest: string): string {
    return join(this.#folder, "rootfs", `${hexOf(manifestDigest)}.${rootFileSystem}`);
  }

  async #locked<T>(name: string, { signal }: WaitOptions, work: () => Promise<T>): Promise<T> {
    mkdirSync(join(this.#folder, "locks"), { recursive: true, mode: 0o700 });
    const lock = await eventually(`wait for another process that works on images (${name})`, () => this.#tryLock(name), { timeoutMs: lockTimeoutMs, intervalMs: 50, ...(signal !== undefined && { signal }) });
    try {
      return await work();
    } finally {
      this.#unlock(name, lock);
    }
  }

  /** The lock's descriptor, or undefined when somebody else has it. */
  #tryLock(name: string): number | undefined {
    const path = join(this.#folder, "locks", name);
    const fd = flockExclusive(path);
    if (fd === undefined) return undefined;
    // Who had it before may have deleted the file after we opened it: then this lock binds nobody.
    if (statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino) return fd;
    closeSync(fd);
    return undefined;
  }

  #unlock(name: string, fd: number): void {
    rmSync(join(this.#folder, "locks", name), { force: true });
    closeSync(fd);
  }

  /** A folder whose lock is free has nobody at work in it. */
  #clearTemporaryFolders(parent: string): void {
    for (const name of readdirSync(parent)) {
      const lock = this.#tryLock(name);
      if (lock === undefined) continue;
      rmSync(join(parent, name), { recursive: true, force: true });
      this.#unlock(name, lock);
    }
  }
}

function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
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
  return digest.slice("sha256:".length);
}
