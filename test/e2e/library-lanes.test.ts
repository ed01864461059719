// Large files of a sandbox, which go by a lane (docs/wire-channel.md):
// - whole both ways, one after the other and at once; what does not fit is said as the file system says it
// - no lane is left by a transfer that ends, fails, is given up, or outlives the owner
// - a sandbox is saved in the middle of a transfer, which goes on; the copy knows nothing of it
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { createWriteStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { after, before, test } from "node:test";
import { ownerToken } from "../../src/host/control/start-owner.ts";
import { ContainerStore } from "../../src/host/store/container-store.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { signalProcess } from "../../src/shared/linux/proc.ts";
import { RuntimeError, Sandbox } from "../../src/index.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const mebibyte = 1024 * 1024;
const within = { timeoutMs: 20_000 };
const folder = mkdtempSync("/tmp/cm-lanes-");
let sandbox: Sandbox;
after(async () => {
  await sandbox.close(); // before the folders go
  rmSync(folder, { recursive: true });
});
const casemate = useCasemate();
const root = casemate.folders.data;

before(async () => {
  sandbox = await Sandbox.create({ root, image: "busybox", network: "none", memoryMiB: 512 });
});

const code = (wanted: string, reason?: string) => (error: unknown): boolean => RuntimeError.is(error) && error.code === wanted && (reason === undefined || error.reason === reason);
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Names of the lanes that the guest's kernel has. */
async function lanes(of: Sandbox): Promise<string[]> {
  const { stdout } = await of.run("cat /sys/class/virtio-ports/*/name");
  assert.match(stdout, /casemate\.control/);
  return stdout.split("\n").filter((name) => name.startsWith("casemate.lane"));
}

/** Content that stops after `bytes`, until it is told to go on to its end. */
function pausing(bytes: number, total: number): { readonly content: AsyncIterable<Buffer>; readonly halfWay: Promise<void>; readonly goOn: () => void } {
  const halfWay = Promise.withResolvers<void>(), rest = Promise.withResolvers<void>();
  const pieces = async function* (): AsyncGenerator<Buffer> {
    const piece = Buffer.alloc(mebibyte, "lane");
    for (let sent = 0; sent < total; sent += piece.length) {
      if (sent === bytes) {
        halfWay.resolve();
        await rest.promise;
      }
      yield piece;
    }
  };
  return { content: pieces(), halfWay: halfWay.promise, goOn: () => rest.resolve() };
}

test("64 MiB arrive whole, in both directions, and no lane is left", { skip }, async () => {
  const content = randomBytes(64 * mebibyte - 12_345);
  await sandbox.files.write("/big", content, { mode: 0o640, uid: 7 });
  const { mode, uid, sizeBytes } = await sandbox.files.stat("/big");
  assert.deepEqual([mode, uid, sizeBytes], [0o640, 7, content.length]);
  assert.equal(sha256(await sandbox.files.readBytes("/big")), sha256(content));
  assert.deepEqual(await lanes(sandbox), []);
});

test("transfers at once all arrive, by up- and download too", { skip }, async () => {
  const contents = Array.from({ length: 3 }, () => randomBytes(12 * mebibyte + 1));
  for (const [index, content] of contents.entries()) writeFileSync(join(folder, `up${index}`), content);
  await Promise.all(contents.map((_, index) => sandbox.files.upload(join(folder, `up${index}`), `/up${index}`)));
  await Promise.all([...contents.map((_, index) => sandbox.files.download(`/up${index}`, join(folder, `down${index}`))), sandbox.files.write("/more", contents[0] ?? "")]);
  for (const [index, content] of contents.entries()) assert.ok(readFileSync(join(folder, `down${index}`)).equals(content), `file ${index}`);
  await pipeline(sandbox.files.readStream("/up1"), createWriteStream(join(folder, "streamed")));
  assert.equal(sha256(readFileSync(join(folder, "streamed"))), (await sandbox.run("sha256sum </up1")).stdout.split(" ")[0]);
  assert.deepEqual(await lanes(sandbox), []);
});

test("a full disk is told as such, and nothing is left of the transfer", { skip }, async () => {
  await assert.rejects(sandbox.files.write("/dev/shm/large", Buffer.alloc(80 * mebibyte)), (error) => code("resource_exhausted")(error) && /ENOSPC/.test(String(error)));
  assert.deepEqual(await lanes(sandbox), []);
  await sandbox.files.remove("/dev/shm/large");
});

test("a transfer goes by a lane, and one that is given up leaves none, writing or reading", { skip }, async () => {
  const stop = new AbortController();
  const { content, halfWay } = pausing(12 * mebibyte, 64 * mebibyte);
  const writing = assert.rejects(sandbox.files.write("/given-up", Readable.from(content), { signal: stop.signal }), code("canceled"));
  await halfWay;
  assert.equal((await lanes(sandbox)).length, 1);
  stop.abort();
  await writing;
  await eventually("the lane's end", async () => ((await lanes(sandbox)).length === 0 ? true : undefined), within);
  const reading = sandbox.files.readStream("/big");
  await new Promise((resolve) => reading.once("data", resolve));
  assert.equal((await lanes(sandbox)).length, 1);
  reading.destroy();
  await eventually("the lane's end", async () => ((await lanes(sandbox)).length === 0 ? true : undefined), within);
  await sandbox.files.remove("/given-up"); // no handle is in the way
});

test("a sandbox is saved in the middle of a transfer, which goes on; the copy has no lane and gets its own", { skip }, async () => {
  const { content, halfWay, goOn } = pausing(12 * mebibyte, 24 * mebibyte);
  const writing = sandbox.files.write("/through", content);
  await halfWay;
  const [copy] = await sandbox.fork({ root });
  assert.ok(copy !== undefined);
  assert.deepEqual([await lanes(sandbox), await lanes(copy)], [[], []]);
  goOn();
  await writing;
  assert.equal((await sandbox.run("sha256sum </through")).stdout.split(" ")[0], sha256(Buffer.alloc(24 * mebibyte, "lane")));
  const own = randomBytes(8 * mebibyte);
  await copy.files.write("/own", own);
  assert.ok((await copy.files.readBytes("/own")).equals(own));
  await copy.close();
});

test("when the owner dies in the middle, whole content arrives, a stream says that it was interrupted, and no lane is left", { skip }, async () => {
  const { content, halfWay, goOn } = pausing(12 * mebibyte, 24 * mebibyte);
  const streaming = assert.rejects(sandbox.files.write("/half", content), code("aborted", "stream_interrupted"));
  await halfWay;
  const { sandboxId } = new ContainerStore(casemate.folders).find(sandbox.id);
  for (const owner of findTaggedProcesses(ownerToken(sandboxId))) if (!readFileSync(`/proc/${owner.pid}/cmdline`, "latin1").includes("owner-supervisor")) signalProcess(owner, "SIGKILL");
  goOn();
  await streaming;
  assert.deepEqual(await lanes(sandbox), []);
  const whole = randomBytes(16 * mebibyte);
  await sandbox.files.write("/whole", whole);
  assert.ok((await sandbox.files.readBytes("/whole")).equals(whole));
  assert.deepEqual(await lanes(sandbox), []);
});
