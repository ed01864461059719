import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { gzipSync } from "node:zlib";
import { tarBytes, type TestEntry } from "../../../../test/support/memory-archive.ts";
import { RuntimeError, describeError } from "../../../shared/base/errors.ts";
import { runProcess } from "../../../shared/linux/run-process.ts";
import { makeRootImage, type LayerBlob } from "./root-image.ts";

let folder: string;
beforeEach(() => { folder = mkdtempSync(join(tmpdir(), "casemate-root-image-")); });
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

function layerOf(archive: Buffer, blob = archive): LayerBlob {
  const digest = digestOf(blob);
  const path = join(folder, digest.slice(7));
  writeFileSync(path, blob);
  return { path, digest, diffId: digestOf(archive) };
}

/** Makes the image in a new folder, and leaves nothing else there. */
async function make(...layers: readonly LayerBlob[]): Promise<string> {
  const work = mkdtempSync(join(folder, "work-"));
  const image = await makeRootImage(layers, work);
  assert.deepEqual(readdirSync(work), ["root.img"]);
  return image;
}

/** What `unsquashfs` lists: mode, owner and path of each entry. */
async function list(image: string): Promise<string[]> {
  const { stdout } = await runProcess("unsquashfs", ["-lln", "-no-progress", image]);
  return stdout.toString().trimEnd().split("\n").map((line) => line.replace(/^(\S+) (\S+) .*squashfs-root/, "$1 $2 "));
}

const file: TestEntry = { path: "f", type: "file", uid: 7, gid: 8, content: "content" };

test("makeRootImage() gives the root folder the owner, mode and time the layers say, whoever runs it", async () => {
  const image = await make(layerOf(tarBytes([{ path: "./", type: "folder", mode: 0o1770, uid: 123_456, gid: 77, mtimeSeconds: 1_000_000_000 }, file])));
  assert.deepEqual(await list(image), ["drwxrwx--T 123456/77 ", "-rw-r--r-- 7/8 /f"]);
  assert.match((await runProcess("unsquashfs", ["-lln", "-no-progress", image])).stdout.toString(), /2001-09-09 \d\d:46 squashfs-root\n/);
});

test("makeRootImage() makes the root folder root's when no layer names it", async () => {
  assert.deepEqual(await list(await make(layerOf(tarBytes([file])))), ["drwxr-xr-x 0/0 ", "-rw-r--r-- 7/8 /f"]);
});

test("makeRootImage() makes an empty root of no layers, of empty ones and of an archive without an end", async () => {
  for (const layers of [[], [layerOf(tarBytes([]))], [layerOf(Buffer.alloc(0))]]) assert.deepEqual(await list(await make(...layers)), ["drwxr-xr-x 0/0 "]);
});

test("makeRootImage() keeps thousands of owners, and extended attributes behind their table", async () => {
  const entries = Array.from({ length: 5000 }, (_, index): TestEntry => ({ path: `f${index}`, type: "file", uid: 10_000 + index, gid: 10_000 + index, xattrs: new Map([["user.number", String(index)]]) }));
  const lines = await list(await make(layerOf(tarBytes([{ path: ".", type: "folder", uid: 1, gid: 2 }, ...entries]))));
  assert.equal(lines[0], "drwxr-xr-x 1/2 ");
  for (const index of [0, 1, 2047, 2048, 4095, 4096, 4999]) assert.ok(lines.includes(`-rw-r--r-- ${10_000 + index}/${10_000 + index} /f${index}`), `f${index}`);
});

test("makeRootImage() gives the same bytes for the same layers, compressed or not", async () => {
  const archive = tarBytes([{ path: "d", type: "folder" }, file, { path: "d/g", type: "link", linkPath: "f" }]);
  const [plain, gzip] = [await make(layerOf(archive)), await make(layerOf(archive, gzipSync(archive)))];
  assert.deepEqual(readFileSync(plain), readFileSync(gzip));
});

test("makeRootImage() keeps long targets of symbolic links as they are", async () => {
  for (const start of ["/", "./", "../../"]) {
    const target = start + "t".repeat(200);
    const [, line] = await list(await make(layerOf(tarBytes([{ path: "l", type: "symlink", mode: 0o777, linkPath: target }]))));
    assert.equal(line, `lrwxrwxrwx 0/0 /l -> ${target}`);
  }
});

const good = tarBytes([file]);
const damaged: Readonly<Record<string, () => LayerBlob>> = {
  "whose blob is another": () => ({ ...layerOf(good), digest: digestOf(Buffer.from("other")) }),
  "whose archive is another": () => ({ ...layerOf(good), diffId: digestOf(Buffer.from("other")) }),
  "that is cut off": () => layerOf(good, gzipSync(good).subarray(0, 60)),
  "that is missing": () => ({ ...layerOf(good), path: join(folder, "nowhere") }),
};
for (const [what, layer] of Object.entries(damaged)) {
  test(`makeRootImage() names a layer ${what}`, async () => {
    const bad = layer();
    const work = mkdtempSync(join(folder, "work-"));
    await assert.rejects(makeRootImage([layerOf(good), bad], work), (error) => {
      assert.ok(RuntimeError.is(error, "data_loss"), describeError(error));
      assert.equal(error.reason, "image_corrupt");
      assert.equal(error.hint, "pull the image again");
      assert.ok(error.message.includes(bad.digest));
      return true;
    });
  });
}

test("makeRootImage() ends when it is canceled", async () => {
  await assert.rejects(makeRootImage([layerOf(good)], folder, { signal: AbortSignal.abort() }), (error) => RuntimeError.is(error, "canceled"));
});

test("makeRootImage() stops at a bomb before it is unpacked, also when its layers share the size", async () => {
  const zeros = tarBytes([{ path: "zeros", type: "file", content: Buffer.alloc(8 * 1024 * 1024) }]);
  const bomb = layerOf(zeros, gzipSync(zeros));
  for (const [layers, maxUnpackedBytes] of [[[bomb], 1024 * 1024], [[bomb, bomb], 12 * 1024 * 1024]] as const) {
    const work = mkdtempSync(join(folder, "work-"));
    await assert.rejects(makeRootImage(layers, work, { maxUnpackedBytes }), (error) => RuntimeError.is(error, "resource_exhausted") && describeError(error).includes("unpacks to more than an image may"));
  }
});
