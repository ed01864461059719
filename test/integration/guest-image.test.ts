// The guest image, made for real from this machine's tools.
// - the same inputs give the same bytes, whoever makes them, when and where
// - an image that is there is used as it is; makers wait for one another; a dead one's leftovers go
// - what was not used for long and is of no use goes
// - what is damaged is found, named, and made again
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { ensureGuestImage, pruneGuestImages, verifyGuestImage, type GuestImage } from "../../src/host/guest-image/guest-image.ts";
import { stateFolders, type StateFolders } from "../../src/host/store/paths.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { sha256 } from "../support/image-fixture.ts";

/** Making one takes some 10 s. */
const timeoutMs = 180_000;
const folder = mkdtempSync(join(tmpdir(), "cm-guest-"));
let folders: StateFolders;
let image: GuestImage;

before(async () => {
  folders = newFolders("first");
  image = await ensureGuestImage(folders);
}, { timeout: timeoutMs });

after(() => rmSync(folder, { recursive: true, force: true }));

/** State folders that have the machine's kernel, and no image yet. */
function newFolders(name: string): StateFolders {
  const data = join(folder, name);
  mkdirSync(join(data, "guest"), { recursive: true });
  symlinkSync(join(stateFolders(undefined).data, "guest/kernels"), join(data, "guest/kernels"));
  return stateFolders(data);
}

function filesOf({ kernelPath, initramfsPath, rootImagePath }: GuestImage): string[] {
  return [kernelPath, initramfsPath, rootImagePath];
}

test("the same inputs give the same bytes: in another folder, time zone, umask and language", { timeout: timeoutMs }, async () => {
  const other = newFolders("a folder with another name");
  const script = [
    `import { ensureGuestImage } from ${JSON.stringify(join(import.meta.dirname, "../../src/host/guest-image/guest-image.ts"))};`,
    "process.umask(0o077);",
    `process.stdout.write(JSON.stringify(await ensureGuestImage(${JSON.stringify(other)})));`,
  ].join("\n");
  const env = { PATH: process.env["PATH"], HOME: folder, TZ: "Pacific/Kiritimati", LANG: "C.UTF-8", LC_ALL: "C", SOURCE_DATE_EPOCH: "1" };
  const { stdout } = await runProcess(process.execPath, ["--input-type=module", "-e", script], { env, timeoutMs });
  const again = JSON.parse(stdout.toString()) as GuestImage; // printed by the script above
  assert.equal(again.id, image.id);
  assert.deepEqual(again.contents, image.contents);
  assert.deepEqual(filesOf(again).map((path) => sha256(readFileSync(path))), filesOf(image).map((path) => sha256(readFileSync(path))));
});

test("the manifest says what is in it: hashes, sizes, contents", () => {
  assert.deepEqual(image.hashes, filesOf(image).map((path) => sha256(readFileSync(path))));
  assert.deepEqual(Object.values(image.sizes), filesOf(image).map((path) => statSync(path).size));
  const paths = image.contents.map(({ path }) => path);
  for (const needed of ["/usr/bin/node", "/usr/bin/crun", "/usr/lib/casemate/agent.js", `/usr/lib/modules/${image.kernelRelease}/modules.builtin`]) assert.ok(paths.includes(needed), needed);
  verifyGuestImage(image);
});

test("sandboxes of any user can read it, and nobody write it", () => {
  for (const path of filesOf(image)) assert.equal(statSync(path).mode & 0o777, 0o444, path);
});

test("an image that is there is used, also where it is reached by another way", async () => {
  const made = filesOf(image).map((path) => statSync(path).ino);
  const other = join(folder, "linked");
  mkdirSync(other);
  symlinkSync(join(folders.data, "guest"), join(other, "guest"));
  const found = await ensureGuestImage(stateFolders(other));
  assert.equal(found.kernelPath, join(other, "guest/images", image.id, "vmlinux"));
  assert.deepEqual(filesOf(found).map((path) => statSync(path).ino), made);
});

test("an image that was not used for 14 days goes, unless it is the present one or in use", () => {
  const images = join(folders.data, "guest/images");
  const put = (id: string, days: number): void => {
    mkdirSync(join(images, id));
    writeFileSync(join(images, id, "manifest.json"), "{}");
    writeFileSync(join(folders.data, "guest/by-inputs", `inputs-of-${id}`), id);
    const then = new Date(Date.now() - days * 24 * 3_600_000);
    utimesSync(join(images, id, "manifest.json"), then, then);
  };
  put("old", 15);
  put("old-in-use", 15);
  put("young", 13);
  const manifest = join(dirname(image.kernelPath), "manifest.json");
  utimesSync(manifest, 0, 0);
  assert.deepEqual(pruneGuestImages(folders, new Set(["old-in-use"])), ["old"]);
  assert.deepEqual(readdirSync(images).sort(), [image.id, "old-in-use", "young"].sort());
  assert.equal(existsSync(join(folders.data, "guest/by-inputs/inputs-of-old")), false);
  assert.ok(statSync(manifest).mtimeMs > Date.now() - 60_000, "a look for the present image notes its use");
  for (const id of ["old-in-use", "young"]) rmSync(join(images, id), { recursive: true });
  assert.deepEqual(pruneGuestImages(folders, new Set()), []);
});

test("makers wait for one another, and what a dead one has left is removed", { timeout: timeoutMs }, async () => {
  const images = join(folders.data, "guest/images");
  rmSync(join(folders.data, "guest/by-inputs"), { recursive: true });
  mkdirSync(join(images, ".new-dead/root"), { recursive: true });
  const before = filesOf(image).map((path) => statSync(path).ino);
  const [first, second] = await Promise.all([ensureGuestImage(folders), ensureGuestImage(folders)]);
  assert.deepEqual([first?.id, second?.id], [image.id, image.id]);
  assert.deepEqual(readdirSync(images), [image.id]);
  assert.deepEqual(filesOf(image).map((path) => statSync(path).ino), before, "the same bytes are not replaced under running sandboxes");
});

test("a file with other content is found by its hash, a shorter one by a look, and both are made again", { timeout: timeoutMs }, async () => {
  const bytes = readFileSync(image.initramfsPath);
  const change = (content: Uint8Array): void => {
    chmodSync(image.initramfsPath, 0o644);
    writeFileSync(image.initramfsPath, content);
  };
  change(bytes.map((byte, index) => (index === 5_000 ? byte ^ 1 : byte)));
  assert.throws(() => verifyGuestImage(image), (error) => RuntimeError.is(error, "data_loss") && error.reason === "guest_image_corrupt" && error.hint?.includes(dirname(image.initramfsPath)) === true);
  // What the hint says: remove the folder.
  rmSync(dirname(image.initramfsPath), { recursive: true });
  verifyGuestImage(await ensureGuestImage(folders));
  change(bytes.subarray(0, 5_000));
  verifyGuestImage(await ensureGuestImage(folders));
  assert.ok(existsSync(image.kernelPath));
});
