import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import { defaultLayerBytes, ensureWritableLayer } from "./writable-layer.ts";

function temporaryFolder(t: { after(clean: () => void): void }): string {
  const folder = mkdtempSync(join(tmpdir(), "casemate-layer-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

test("ensureWritableLayer() makes a sparse, sound, journaled file system that the guest need not initialise", async (t) => {
  const folder = temporaryFolder(t);
  const disk = join(folder, "disk.ext4");
  await ensureWritableLayer({ data: folder, run: folder }, disk);
  const { size, blocks, mode } = statSync(disk);
  assert.equal(size, defaultLayerBytes);
  assert.ok(blocks * 512 < 1024 * 1024, `${blocks * 512} bytes on disk`);
  assert.equal(mode & 0o077, 0);
  await runProcess("e2fsck", ["-fn", disk]);
  const { stdout } = await runProcess("dumpe2fs", [disk]);
  assert.match(stdout.toString(), /has_journal/);
  assert.doesNotMatch(stdout.toString(), /Group 5:.*\n?.*(?<!ITABLE_ZEROED)\]$/m);
  assert.deepEqual(readdirSync(folder).sort(), ["cache", "disk.ext4"]);
});

test("ensureWritableLayer() leaves a layer that is there alone, and makes one base for all", async (t) => {
  const folder = temporaryFolder(t);
  const folders = { data: folder, run: folder };
  const kept = join(folder, "kept");
  writeFileSync(kept, "files of a container");
  await ensureWritableLayer(folders, kept);
  assert.equal(statSync(kept).size, 20);
  await Promise.all(["a", "b", "c"].map((name) => ensureWritableLayer(folders, join(folder, name), { maxBytes: 128 * 1024 * 1024 })));
  assert.deepEqual(readdirSync(join(folder, "cache/writable-layers")), ["v1-128MiB.ext4"]);
  assert.deepEqual(readdirSync(folder).sort(), ["a", "b", "c", "cache", "kept"]);
});

test("ensureWritableLayer() refuses sizes that cannot be, and leaves nothing when it fails", async (t) => {
  const folder = temporaryFolder(t);
  const folders = { data: folder, run: folder };
  for (const maxBytes of [0, 1024, 64 * 1024 * 1024 + 1, NaN]) {
    await assert.rejects(ensureWritableLayer(folders, join(folder, "x"), { maxBytes }), (error) => RuntimeError.is(error, "invalid_argument"));
  }
  await assert.rejects(ensureWritableLayer(folders, join(folder, "no/such/folder/x"), { maxBytes: 64 * 1024 * 1024 }), (error) => RuntimeError.is(error));
  assert.deepEqual(readdirSync(folder), ["cache"]);
});
