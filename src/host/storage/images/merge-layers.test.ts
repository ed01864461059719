import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryArchive, tarBytes, type TestEntry } from "../../../../test/support/memory-archive.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { mergeLayers } from "./merge-layers.ts";

const folder = (path: string, mode = 0o755): TestEntry => ({ path, type: "folder", mode });
const file = (path: string, content = path): TestEntry => ({ path, type: "file", content });
const link = (path: string, linkPath: string): TestEntry => ({ path, type: "link", linkPath });
const symlink = (path: string, linkPath: string): TestEntry => ({ path, type: "symlink", mode: 0o777, linkPath });

/** What is left of the layers: path to content, `dir MODE`, `-> target` or `= linked path`. */
function merged(...layers: readonly (readonly TestEntry[])[]): Record<string, string> {
  const archives = layers.map((entries) => memoryArchive(tarBytes(entries)));
  const seen = new Set<string>();
  return Object.fromEntries(mergeLayers(archives).filter(({ path }) => path !== "").map(({ path, source, linkTo }) => {
    const parent = path.split("/").slice(0, -1).join("/");
    assert.ok(parent === "" || seen.has(parent), `the folder of ${path} comes first`);
    assert.ok(linkTo === undefined || seen.has(linkTo), `${path} comes after ${linkTo}`);
    seen.add(path);
    const entry = source?.entry;
    if (linkTo !== undefined) return [path, `= ${linkTo}`];
    if (source === undefined || entry === undefined) return [path, "dir implied"];
    if (entry.type === "folder") return [path, `dir ${entry.mode.toString(8)}`];
    if (entry.type === "symlink") return [path, `-> ${entry.linkPath}`];
    return [path, archives[source.layer]?.read(entry.dataStart, entry.sizeBytes).toString() ?? ""];
  }));
}

test("mergeLayers() lets higher layers win and keeps the rest", () => {
  assert.deepEqual(merged([folder("d", 0o700), file("d/a"), file("d/b")], [file("d/b", "new"), file("c")]), { d: "dir 700", "d/a": "d/a", "d/b": "new", c: "c" });
});

test("mergeLayers() gives a folder the attributes of the highest layer that names it", () => {
  assert.deepEqual(merged([folder("d", 0o700), file("d/a")], [folder("d", 0o1777)]), { d: "dir 1777", "d/a": "d/a" });
});

test("mergeLayers() makes folders that no layer names", () => {
  assert.deepEqual(merged([file("a/b/c")]), { a: "dir implied", "a/b": "dir implied", "a/b/c": "a/b/c" });
});

test("mergeLayers() applies whiteouts to files and whole folders", () => {
  assert.deepEqual(merged([folder("d"), file("d/x"), file("f"), file("g")], [file(".wh.d", ""), file(".wh.f", "")]), { g: "g" });
});

test("mergeLayers() ignores a whiteout of what is not there", () => {
  assert.deepEqual(merged([file("a")], [file(".wh.b", ""), file(".wh.", ""), file(".wh..", ""), file(".wh...", "")]), { a: "a" });
});

for (const [order, sort] of Object.entries({ "before": (entries: TestEntry[]) => entries, "after": (entries: TestEntry[]) => entries.toReversed() })) {
  test(`mergeLayers() does not hide what the same layer brings ${order} its whiteout`, () => {
    assert.deepEqual(merged([folder("d"), file("d/old")], sort([file(".wh.d", ""), file("d/new")])), { d: "dir implied", "d/new": "d/new" });
    assert.deepEqual(merged([file("f", "old")], sort([file(".wh.f", ""), file("f", "new")])), { f: "new" });
  });

  test(`mergeLayers() hides lower content at all depths, with the opaque mark ${order} the new content`, () => {
    const lower = [folder("d"), file("d/old"), folder("d/sub", 0o700), file("d/sub/old"), folder("d/gone"), file("d/gone/old")];
    const upper = sort([file("d/.wh..wh..opq", ""), file("d/new"), file("d/sub/new")]);
    assert.deepEqual(merged(lower, upper), { d: "dir 755", "d/new": "d/new", "d/sub": "dir implied", "d/sub/new": "d/sub/new" });
  });
}

test("mergeLayers() keeps a folder's own attributes when a layer makes it opaque without naming it", () => {
  assert.deepEqual(merged([file("pad"), folder("d", 0o711), file("d/old")], [file("d/.wh..wh..opq", "")]), { pad: "pad", d: "dir 711" });
});

test("mergeLayers() applies an opaque mark to lower layers only, and once", () => {
  assert.deepEqual(merged([file("d/1")], [file("d/.wh..wh..opq", ""), file("d/2")], [file("d/3")]), { d: "dir implied", "d/2": "d/2", "d/3": "d/3" });
});

test("mergeLayers() replaces files by folders and back", () => {
  assert.deepEqual(merged([file("x")], [folder("x"), file("x/in")]), { x: "dir 755", "x/in": "x/in" });
  assert.deepEqual(merged([folder("x"), file("x/in")], [file("x", "plain")]), { x: "plain" });
  assert.deepEqual(merged([folder("x"), file("x/in")], [file("x", "plain")], [folder("x", 0o700)]), { x: "dir 700" });
  assert.deepEqual(merged([file("x")], [file("x/in")]), { x: "dir implied", "x/in": "x/in" });
});

test("mergeLayers() keeps hard links together", () => {
  assert.deepEqual(merged([file("b"), link("a", "b"), link("c", "./a")]), { b: "b", a: "= b", c: "= b" });
});

test("mergeLayers() lets a hard link keep its content when a higher layer replaces or hides the file it was one with", () => {
  const lower = [file("a", "content"), link("b", "a"), link("c", "a")];
  assert.deepEqual(merged(lower, [file("a", "new")]), { a: "new", b: "content", c: "= b" });
  assert.deepEqual(merged(lower, [file(".wh.a", "")]), { b: "content", c: "= b" });
  assert.deepEqual(merged(lower, [folder("a")]), { a: "dir 755", b: "content", c: "= b" });
  assert.deepEqual(merged(lower, [file(".wh.a", ""), file(".wh.b", "")]), { c: "content" });
});

test("mergeLayers() links to a file of a lower layer", () => {
  assert.deepEqual(merged([file("a", "low")], [link("b", "/a")]), { a: "low", b: "= a" });
});

test("mergeLayers() links to what the file was when the layer said so", () => {
  assert.deepEqual(merged([file("a", "one"), link("b", "a"), file("a", "two")]), { a: "two", b: "one" });
});

for (const [what, entries] of Object.entries({ "nothing": [link("b", "a")], "a folder": [folder("a"), link("b", "a")], "the root": [link("b", "..")], "a later file": [link("b", "a"), file("a")] })) {
  test(`mergeLayers() refuses a hard link to ${what}`, () => {
    assert.throws(() => merged(entries), (error) => RuntimeError.is(error, "data_loss") && error.reason === "image_corrupt" && error.message.includes("hard link \"b\""));
  });
}

test("mergeLayers() keeps names with .. or from the root below the root", () => {
  assert.deepEqual(merged([file("../../a"), file("/b"), file("x/../../c"), file("./d")]), { a: "../../a", b: "/b", c: "x/../../c", d: "./d" });
});

test("mergeLayers() follows a symbolic link of the same layer in a parent, and never out of the root", () => {
  assert.deepEqual(merged([folder("usr"), symlink("lib", "usr"), file("lib/x")]), { lib: "-> usr", usr: "dir 755", "usr/x": "lib/x" });
  assert.deepEqual(merged([symlink("out", "../../../etc"), file("out/passwd")]), { out: "-> ../../../etc", etc: "dir implied", "etc/passwd": "out/passwd" });
  assert.deepEqual(merged([folder("a"), symlink("a/abs", "/etc"), file("a/abs/passwd")]), { a: "dir 755", "a/abs": "-> /etc", etc: "dir implied", "etc/passwd": "a/abs/passwd" });
  assert.deepEqual(merged([folder("etc"), file("etc/f"), symlink("e", "etc"), link("h", "e/f")]), { e: "-> etc", etc: "dir 755", "etc/f": "etc/f", h: "= etc/f" });
});

test("mergeLayers() hides a symbolic link of a lower layer by a folder, as an overlay does", () => {
  assert.deepEqual(merged([folder("usr"), symlink("lib", "usr")], [file("lib/x")]), { usr: "dir 755", lib: "dir implied", "lib/x": "lib/x" });
});

test("mergeLayers() refuses symbolic links in a circle", () => {
  assert.throws(() => merged([symlink("a", "b"), symlink("b", "a"), file("a/x")]), (error) => RuntimeError.is(error, "data_loss") && /too many symbolic links/.test(error.message));
});

test("mergeLayers() refuses paths that symbolic links make endless", () => {
  const deep = "x/".repeat(1500);
  assert.throws(() => merged([symlink("a", deep), symlink("b", `a/${deep}`), file("b/f")]), (error) => RuntimeError.is(error, "data_loss") && /too deep/.test(error.message));
});

test("mergeLayers() copes with the deepest path there can be", () => {
  const path = `${"d/".repeat(2000)}f`;
  assert.equal(merged([file(path, "deep")])[path], "deep");
  assert.deepEqual(merged([file(path)], [file(".wh.d", "")]), {});
});

test("mergeLayers() takes the root's attributes from the highest layer that names it", () => {
  const root = mergeLayers([[folder("./", 0o700)], [folder("./", 0o711)], [file("a")]].map((entries) => memoryArchive(tarBytes(entries))))[0];
  assert.deepEqual([root?.path, root?.source?.entry.mode], ["", 0o711]);
});

test("mergeLayers() of no layers is an empty root", () => {
  assert.deepEqual(mergeLayers([]), [{ path: "", source: undefined, linkTo: undefined }]);
});
