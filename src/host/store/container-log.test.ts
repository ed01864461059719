import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ContainerLogWriter, LogDecoder, LogFollower, encodeLogHeader, readContainerLog, readLogRun, type LogRecord } from "./container-log.ts";

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
  assert.deepEqual([...readContainerLog(path)].filter(({ fd }) => fd === 0).map(({ unixNanos }) => unixNanos), [writer.runId, writer.runId, writer.runId], "each file begins with a mark");
  const offsets = [...readLogRun(path, writer.runId)].map(({ offset }) => offset);
  assert.equal(offsets.at(-1), 110);
  assert.deepEqual(offsets, offsets.map((_, index) => (offsets[0] ?? 0) + index * 10), "no gap among what was kept");
});

test("LogFollower sees appended records once, also across a rotation", async () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "log");
  const writer = await ContainerLogWriter.open(path, { maxFileBytes: 60, maxFiles: 3 });
  const follower = new LogFollower(path);
  assert.deepEqual(follower.poll().map(({ fd }) => fd), [0]);
  const seen: number[] = [];
  for (let index = 0; index < 8; index++) {
    await writer.append(record(index, "x"));
    seen.push(...follower.poll().filter(({ fd }) => fd !== 0).map(({ offset }) => offset));
  }
  await writer.close();
  follower.close();
  assert.deepEqual(seen, [0, 1, 2, 3, 4, 5, 6, 7]);
});

test("a log goes on where its writer died, in every byte of the last record", async () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "log");
  const first = await ContainerLogWriter.open(path);
  await first.append(record(0, "old run"));
  await first.close();
  const second = await ContainerLogWriter.open(path);
  await second.append(record(0, "one"));
  await second.append(record(0, "err", 2));
  await second.close();
  const whole = readFileSync(path);
  const unfinished = Buffer.concat([encodeLogHeader(record(3, "two")), Buffer.from("two")]);
  for (let cut = 0; cut <= unfinished.length; cut++) {
    writeFileSync(path, whole);
    appendFileSync(path, unfinished.subarray(0, cut));
    const { writer, end } = await ContainerLogWriter.resume(path);
    assert.deepEqual([end.runId, [...end.offsets]], [second.runId, [[1, cut === unfinished.length ? 6 : 3], [2, 3]]]);
    await writer.append(record(end.offsets.get(1) ?? 0, "!"));
    await writer.close();
    assert.equal([...readLogRun(path, second.runId)].filter(({ fd }) => fd === 1).map(({ bytes }) => Buffer.from(bytes).toString()).join(""), cut === unfinished.length ? "onetwo!" : "one!");
  }
});

test("a log that cannot be read is set aside, and output goes on in a new one", async () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "log");
  writeFileSync(path, Buffer.alloc(64, 0x41));
  const { writer, end } = await ContainerLogWriter.resume(path);
  await writer.append(record(7, "x"));
  await writer.close();
  assert.equal(end.runId, undefined);
  assert.deepEqual([...readLogRun(path, writer.runId)].map(({ offset }) => offset), [7]);
  assert.equal(readdirSync(folder.path).filter((name) => name.startsWith("log.corrupt-")).length, 1);
});
