import { RuntimeError } from "../../../shared/base/errors.ts";
import { cleanPath, readTar, type Archive } from "./tar.ts";
import type { TarEntry } from "./tar-entry.ts";

/** An entry and the layer whose archive has its content. */
interface Source {
  readonly layer: number;
  readonly entry: TarEntry;
}

/** What the merged root file system has at one path. */
export interface MergedEntry {
  readonly path: string;
  /** Undefined: a folder that is there because something is in it. */
  readonly source: Source | undefined;
  /** For a hard link: the path of an earlier entry that is the same file. */
  readonly linkTo: string | undefined;
}

/** More than any sane image; a bomb has more. */
const maxEntries = 2_000_000;
/** Components of a path of PATH_MAX bytes; symbolic links must not make it longer. */
const maxDepth = 2048;
/** As the kernel, which answers ELOOP. */
const maxSymlinks = 40;
const whiteoutPrefix = ".wh.", opaqueMarker = ".wh..wh..opq";

interface Node {
  /** The layer that made it what it is. */
  layer: number;
  /** Of a hard link: that of the file it is one with. Undefined: a folder no layer names. */
  source: Source | undefined;
  readonly isLink: boolean;
  readonly children: Map<string, Node>;
}

/**
 * Applies layers, lowest first, as an overlay would (OCI image-spec, layer.md), and returns what is
 * left in an order that can be unpacked: folders before what is in them, files before their hard links.
 */
export function mergeLayers(layers: readonly Archive[]): MergedEntry[] {
  const tree = new LayerTree();
  for (const [layer, archive] of layers.entries()) {
    for (const entry of readTar(archive)) tree.apply(layer, entry);
  }
  return tree.list();
}

/** The file system in the making. It never touches the disk, so no name can lead out of it. */
class LayerTree {
  readonly #root: Node = { layer: 0, source: undefined, isLink: false, children: new Map() };
  #count = 0;

  apply(layer: number, entry: TarEntry): void {
    this.#countOne();
    if (entry.path === "") {
      this.#root.source = { layer, entry };
      return;
    }
    const parts = entry.path.split("/");
    const name = parts.pop() ?? "";
    const parent = this.#folderAt(parts, layer);
    if (name === opaqueMarker) {
      for (const [child, node] of parent.children) if (!keepsAny(node, layer)) parent.children.delete(child);
    } else if (name.startsWith(whiteoutPrefix)) {
      const hidden = name.slice(whiteoutPrefix.length);
      const node = parent.children.get(hidden);
      if (node !== undefined && !keepsAny(node, layer)) parent.children.delete(hidden);
    } else {
      this.#put(parent, name, layer, entry);
    }
  }

  #put(parent: Node, name: string, layer: number, entry: TarEntry): void {
    const before = parent.children.get(name);
    if (entry.type === "folder" && before !== undefined && isFolder(before)) {
      before.source = { layer, entry };
      before.layer = layer;
      return;
    }
    const isLink = entry.type === "link";
    parent.children.set(name, { layer, source: isLink ? this.#linked(entry, layer) : { layer, entry }, isLink, children: new Map() });
  }

  /**
   * The folder at that path. Parents that no layer names are made, and hide what is no folder in lower
   * layers; a symbolic link of the same layer is followed, below the root, as unpacking it would.
   */
  #folderAt(path: readonly string[], layer: number): Node {
    const left = path.toReversed();
    const trail = [this.#root];
    for (let part = left.pop(), symlinks = 0; part !== undefined; part = left.pop()) {
      if (part === "..") {
        if (trail.length > 1) trail.pop();
        continue;
      }
      const parent = trail.at(-1) ?? this.#root;
      let next = parent.children.get(part);
      if (next?.source?.entry.type === "symlink" && next.layer === layer) {
        if (++symlinks > maxSymlinks) throw corrupt(`"${path.join("/")}" has too many symbolic links in its path`);
        const target = next.source.entry.linkPath;
        if (target.startsWith("/")) trail.length = 1;
        left.push(...target.split("/").filter((name) => name !== "" && name !== ".").toReversed());
        continue;
      }
      if (next === undefined || !isFolder(next)) {
        this.#countOne();
        next = { layer, source: undefined, isLink: false, children: new Map() };
        parent.children.set(part, next);
      }
      if (trail.push(next) > maxDepth) throw corrupt(`"${path.join("/")}" is too deep`);
    }
    return trail.at(-1) ?? this.#root;
  }

  /** What a hard link is one with. */
  #linked(entry: TarEntry, layer: number): Source {
    const parts = cleanPath(entry.linkPath).split("/");
    const name = parts.pop() ?? "";
    const source = this.#folderAt(parts, layer).children.get(name)?.source;
    if (source === undefined || source.entry.type === "folder") throw corrupt(`hard link "${entry.path}" to "${entry.linkPath}", which is no file`);
    return source;
  }

  #countOne(): void {
    if (++this.#count > maxEntries) throw new RuntimeError("resource_exhausted", `image has more than ${maxEntries} entries`, { reason: "image_too_large" });
  }

  list(): MergedEntry[] {
    const entries: MergedEntry[] = [];
    const links: { readonly path: string; readonly source: Source }[] = [];
    /** Where a file is in the result. */
    const placed = new Map<TarEntry, string>();
    const visit = (path: string, { source, isLink, children }: Node): void => {
      if (isLink && source !== undefined) {
        links.push({ path, source });
      } else {
        if (source !== undefined) placed.set(source.entry, path);
        entries.push({ path, source, linkTo: undefined });
      }
      for (const [name, child] of [...children].toSorted(([a], [b]) => (a < b ? -1 : 1))) visit(path === "" ? name : `${path}/${name}`, child);
    };
    visit("", this.#root);
    for (const { path, source } of links) {
      const linkTo = placed.get(source.entry);
      // The file it was one with has been replaced or removed by a higher layer: this one keeps the content.
      if (linkTo === undefined) placed.set(source.entry, path);
      entries.push({ path, source, linkTo });
    }
    return entries;
  }
}

function isFolder({ source }: Node): boolean {
  return source === undefined || source.entry.type === "folder";
}

/** Hides what layers below the given one put here; the order within a layer does not matter. False when nothing is left. */
function keepsAny(node: Node, layer: number): boolean {
  for (const [name, child] of node.children) if (!keepsAny(child, layer)) node.children.delete(name);
  if (node.layer >= layer) return true;
  if (node.children.size === 0) return false;
  node.source = undefined; // a folder that this layer made again without naming it
  node.layer = layer;
  return true;
}

function corrupt(why: string): RuntimeError {
  return new RuntimeError("data_loss", `layer archive: ${why}`, { reason: "image_corrupt", hint: "pull the image again" });
}
