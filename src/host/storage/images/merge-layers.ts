import { RuntimeError } from "../../../shared/base/errors.ts";
import { cleanPath, readTar, type TarEntry } from "./tar.ts";
import type { Archive } from "./tar.ts";

/** What the merged root file system has at one path. */
export interface MergedEntry {
  readonly path: string;
  /** Undefined: a folder that is there because something is in it. */
  readonly source: { readonly layer: number; readonly entry: TarEntry } | undefined;
  /** For a hard link: the path of the entry it is one with, when that one is in the result. */
  readonly linkTo: string | undefined;
}

/** More than any sane image; a bomb has more. */
const maxEntries = 2_000_000;
const whiteoutPrefix = ".wh.", opaqueMarker = ".wh..wh..opq";

interface Node {
  layer: number;
  entry: TarEntry | undefined;
  readonly children: Map<string, Node>;
  /** For a hard link: the entry it was one with when its layer was applied. */
  original: { layer: number; entry: TarEntry } | undefined;
}

/**
 * Applies layers, lowest first, as an overlay would (OCI image-spec, layer.md), and returns what is
 * left in an order that can be unpacked: folders before what is in them, files before their hard links.
 */
export function mergeLayers(layers: readonly Archive[]): MergedEntry[] {
  const root = newNode(0, undefined);
  let count = 0;
  for (const [layer, archive] of layers.entries()) {
    for (const entry of readTar(archive)) {
      if (++count > maxEntries) throw new RuntimeError("resource_exhausted", `image has more than ${maxEntries} entries`, { reason: "image_too_large" });
      apply(root, layer, entry);
    }
  }
  return list(root);
}

function newNode(layer: number, entry: TarEntry | undefined): Node {
  return { layer, entry, children: new Map(), original: undefined };
}

function apply(root: Node, layer: number, entry: TarEntry): void {
  const parts = entry.path.split("/");
  const name = parts.pop() ?? "";
  if (entry.path === "") {
    root.entry = entry;
    root.layer = layer;
    return;
  }
  const parent = folderAt(root, parts, layer);
  if (name === opaqueMarker) {
    // Only what lower layers put here is hidden; the order within a layer does not matter.
    for (const [child, node] of parent.children) if (newestLayer(node) < layer) parent.children.delete(child);
    parent.layer = layer;
    return;
  }
  if (name.startsWith(whiteoutPrefix)) {
    const hidden = name.slice(whiteoutPrefix.length);
    const node = parent.children.get(hidden);
    if (node !== undefined && newestLayer(node) < layer) parent.children.delete(hidden);
    return;
  }
  const before = parent.children.get(name);
  if (entry.type === "folder" && before !== undefined && isFolder(before)) {
    before.entry = entry;
    before.layer = layer;
    return;
  }
  const node = newNode(layer, entry);
  if (entry.type === "link") node.original = originalOf(root, cleanPath(entry.linkPath), entry);
  parent.children.set(name, node);
}

/** The folder at that path; parents that no layer names are made, and hide what is no folder below. */
function folderAt(root: Node, parts: readonly string[], layer: number): Node {
  let node = root;
  for (const part of parts) {
    let next = node.children.get(part);
    if (next === undefined || !isFolder(next)) {
      next = newNode(layer, undefined);
      node.children.set(part, next);
    }
    node = next;
  }
  return node;
}

function isFolder(node: Node): boolean {
  return node.entry === undefined || node.entry.type === "folder";
}

function newestLayer(node: Node): number {
  return Math.max(node.layer, ...[...node.children.values()].map(newestLayer));
}

function originalOf(root: Node, target: string, entry: TarEntry): { layer: number; entry: TarEntry } {
  let node: Node | undefined = root;
  for (const part of target.split("/")) node = node?.children.get(part);
  const original = node?.original ?? (node?.entry === undefined ? undefined : { layer: node.layer, entry: node.entry });
  if (original === undefined || original.entry.type === "folder") throw new RuntimeError("data_loss", `layer archive: hard link "${entry.path}" to "${entry.linkPath}", which is not there`, { reason: "image_corrupt" });
  return original;
}

function list(root: Node): MergedEntry[] {
  const entries: MergedEntry[] = [];
  const links: MergedEntry[] = [];
  /** Where the content of an original is in the result. */
  const placed = new Map<TarEntry, string>();
  const visit = (path: string, node: Node): void => {
    const source = node.original ?? (node.entry === undefined ? undefined : { layer: node.layer, entry: node.entry });
    if (source !== undefined && node.original === undefined) placed.set(source.entry, path);
    (node.original === undefined ? entries : links).push({ path, source, linkTo: undefined });
    for (const [name, child] of [...node.children].toSorted(([a], [b]) => (a < b ? -1 : 1))) visit(path === "" ? name : `${path}/${name}`, child);
  };
  visit("", root);
  for (const link of links) {
    const linkTo = link.source === undefined ? undefined : placed.get(link.source.entry);
    // The file it was one with has been replaced or removed by a higher layer: this one keeps the content.
    if (linkTo === undefined && link.source !== undefined) placed.set(link.source.entry, link.path);
    entries.push({ ...link, linkTo });
  }
  return entries;
}
