import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ContainerLogWriter, LogDecoder, LogFollower, encodeLogHeader, readContainerLog, type LogRecord } from "./container-log.ts";

const record = (offset: number, text: string, fd = 1): LogRecord => ({ fd, offset, unixNanos: 5n, bytes: Buffer.from(text) });

function temporaryFolder(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "casemate-log-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

test("LogDecoder gives the same records however the bytes are cut", () => {
  const records = [record(0, "one"), record(3, ""), record(3, "\0\n\xff", 2)];
  const bytes = Buffer.concat(records.flatMap((one) => [encodeLogHeader(one), one.bytes]));
  for (let cut = 0; cut <= bytes.length; cut++) {
    const decoder = new LogDecoder();
    const decoded = [...decoder.push(bytes.subarray(0, cut)), ...decoder.push(bytes.subarray(cut))];
    assert.deepEqual(decoded.map(({ bytes: content, ...rest }) => ({ ...rest, bytes: Buffer.from(content) })), records);
    assert.equal(decoder.pendingBytes, 0);
  }
});

test("LogDecoder refuses bytes that are no log", () => {
  assert.throws(() => new LogDecoder().push(Buffer.alloc(64, 0x41)), { code: "data_loss" });
});

test("ContainerLogWriter rotates and keeps at most the given number of files", async () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "log");
  const writer = await ContainerLogWriter.open(path, { maxFileBytes: 100, maxFiles: 3 });
  for (let index = 0; index < 12; index++) await writer.append(record(index * 10, `line ${String(index).padStart(4, "0")}\n`));
  await writer.close();
  assert.deepEqual(readdirSync(folder.path).sort(), ["log", "log.1", "log.2"]);
  const offsets = [...readContainerLog(path)].map(({ offset }) => offset);
  assert.equal(offsets.at(-1), 110);
  assert.deepEqual(offsets, offsets.map((_, index) => (offsets[0] ?? 0) + index * 10), "no gap among what was kept");
});

test("LogFollower sees appended records once, also across a rotation", async () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "log");
  const writer = await ContainerLogWriter.open(path, { maxFileBytes: 60, maxFiles: 3 });
  const follower = new LogFollower(path);
  assert.deepEqual(follower.poll(), []);
  const seen: number[] = [];
  for (let index = 0; index < 8; index++) {
    await writer.append(record(index, "x"));
    seen.push(...follower.poll().map(({ offset }) => offset));
  }
  await writer.close();
  follower.close();
  assert.deepEqual(seen, [0, 1, 2, 3, 4, 5, 6, 7]);
});
