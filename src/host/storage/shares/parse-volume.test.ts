import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { parseVolume, prepareVolumeSource } from "./parse-volume.ts";

const context = { cwd: "/srv/me/work", folders: { data: "/data", run: "/run/x" } };

test("parseVolume() knows docker's forms", () => {
  const table: readonly [string, string, string, string, boolean][] = [
    ["/a:/b", "bind", "/a", "/b", false],
    ["/a:/b:ro", "bind", "/a", "/b", true],
    ["/a:/b:rw", "bind", "/a", "/b", false],
    ["/a:/b:ro,z", "bind", "/a", "/b", true],
    ["/a:/b:Z,consistent", "bind", "/a", "/b", false],
    ["/a/../c:/b/./d/", "bind", "/c", "/b/d", false],
    [".:/w", "bind", "/srv/me/work", "/w", false],
    ["./x:/w", "bind", "/srv/me/work/x", "/w", false],
    ["..:/w", "bind", "/srv/me", "/w", false],
    ["../y:/w", "bind", "/srv/me/y", "/w", false],
    ["cache:/var/cache:ro", "volume", "/data/volumes/cache/_data", "/var/cache", true],
    ["/a b:/c d:", "bind", "/a b", "/c d", false],
  ];
  for (const [text, type, source, destination, readOnly] of table) {
    assert.deepEqual(parseVolume(text, context), { type, source, name: type === "volume" ? "cache" : "", destination, readOnly }, text);
  }
});

test("parseVolume() gives an anonymous volume a name nobody else has", () => {
  const [first, second] = [parseVolume("/data", context), parseVolume("/data", context)];
  assert.match(first.name, /^[0-9a-f]{64}$/);
  assert.notEqual(first.name, second.name);
  assert.equal(first.source, `/data/volumes/${first.name}/_data`);
});

test("parseVolume() says what is wrong", () => {
  const table: readonly [string, RegExp][] = [
    ["", /path in the container is ""/],
    ["a", /path in the container is "a", it must be absolute/],
    ["/a:b", /"b", it must be absolute/],
    ["/a:/", /must not be \//],
    ["/a:/b/..", /must not be \//],
    [":/b", /source is empty/],
    ["x/y:/b", /"x\/y" is not a volume's name/],
    ["~/y:/b", /not a volume's name/],
    ["x:/b", /not a volume's name/],
    ["/a:/b:ro,rw", /once/],
    ["/a:/b:rox", /unknown option "rox"/],
    ["/a:/b:ro:z", /too many colons/],
    ["/a\0:/b", /NUL/],
  ];
  for (const [text, message] of table) {
    assert.throws(() => parseVolume(text, context), (error) => RuntimeError.is(error, "invalid_argument") && message.test(error.message) && error.hint !== undefined, text);
  }
  assert.throws(() => parseVolume("/a:/b:rshared", context), (error) => RuntimeError.is(error, "unimplemented"));
});

test("prepareVolumeSource() makes a missing folder and leaves what is there", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "casemate-volume-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const prepare = (source: string): void => prepareVolumeSource({ type: "bind", source, name: "", destination: "/x", readOnly: false });
  const missing = join(folder, "a/b");
  prepare(missing);
  prepare(missing);
  assert.equal(statSync(missing).mode & 0o777, 0o755);
  const file = join(folder, "file");
  writeFileSync(file, "x");
  prepare(file);
  assert.throws(() => prepare("/dev/null"), (error) => RuntimeError.is(error, "failed_precondition") && error.reason === "bad_source");
  assert.throws(() => prepare(join(file, "below")), (error) => RuntimeError.is(error) && error.message.includes(file));
  symlinkSync(join(folder, "nowhere"), join(folder, "dangling"));
  assert.throws(() => prepare(join(folder, "dangling")), (error) => RuntimeError.is(error, "failed_precondition") && error.reason === "bad_source");
});
