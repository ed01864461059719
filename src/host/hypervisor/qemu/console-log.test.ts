import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { eventually, orAbandon } from "../../../shared/base/deadline.ts";
import { ConsoleLog } from "./console-log.ts";

/** A console and the guest that writes to it. */
async function open(t: TestContext, prepare: (path: string) => void = () => undefined): Promise<{ log: ConsoleLog; path: string; guest: Socket }> {
  const folder = mkdtempSync(join(tmpdir(), "casemate-console-"));
  const path = join(folder, "console.log");
  prepare(path);
  const server = createServer();
  server.listen(join(folder, "console.sock"));
  await once(server, "listening");
  const connection = once(server, "connection");
  const log = await ConsoleLog.open(path, join(folder, "console.sock"));
  const [guest] = await connection as [Socket]; // what a server's event "connection" carries
  t.after(async () => {
    log.close();
    guest.destroy();
    server.close();
    await log.ended;
    rmSync(folder, { recursive: true, force: true });
  });
  return { log, path, guest };
}

/** Sends bytes and waits until all of them were taken. */
async function write(guest: Socket, bytes: Uint8Array | string): Promise<void> {
  await new Promise<void>((resolve, reject) => { guest.write(bytes, (error) => { if (error) reject(error); else resolve(); }); });
}

const within = { timeoutMs: 5_000 };

test("what the guest prints is in the file and in the tail", async (t) => {
  const { log, path, guest } = await open(t);
  await write(guest, "Booting\r\nready\r\n");
  guest.end();
  await orAbandon(log.ended, "the end", within);
  assert.equal(readFileSync(path, "utf8"), "Booting\r\nready\r\n");
  assert.equal(log.tail, "Booting\nready\n");
});

test("the tail is safe to print on a terminal", async (t) => {
  const { log, guest } = await open(t);
  await write(guest, Buffer.from("\x1b[2J\x1b[31mred\x1b[0m\x07\x9b5n\tx\0\x7f\n", "latin1"));
  guest.end();
  await orAbandon(log.ended, "the end", within);
  assert.equal(log.tail, "red5n\tx\n");
});

test("a flood fills two files of half a MiB and no more, and the last lines are there", async (t) => {
  const { log, path, guest } = await open(t);
  const line = `${"flood ".repeat(20)}\n`;
  const piece = line.repeat(1_000);
  for (let sent = 0; sent < 20 * 1024 * 1024; sent += piece.length) await write(guest, piece);
  await write(guest, "the last line\n");
  await eventually("the last line", () => (log.tail.endsWith("the last line\n") ? true : undefined), within);
  assert.ok(log.tail.length <= 4 * 1024);
  for (const file of [path, `${path}.1`]) assert.ok(statSync(file).size <= 512 * 1024, `${file} has ${statSync(file).size} bytes`);
  assert.ok(!existsSync(`${path}.2`));
  assert.ok(readFileSync(path, "utf8").endsWith("the last line\n"));
});

test("a log that is opened again goes on where it was, and stays bounded", async (t) => {
  const { log, path, guest } = await open(t, (file) => writeFileSync(file, "x".repeat(512 * 1024 - 3)));
  await write(guest, "more\n");
  await eventually("the line", () => (log.tail === "more\n" ? true : undefined), within);
  assert.equal(readFileSync(path, "utf8"), "more\n");
  assert.equal(statSync(`${path}.1`).size, 512 * 1024 - 3);
});

test("a full disk loses lines of the file and nothing else", async (t) => {
  const { log, guest } = await open(t, (file) => symlinkSync("/dev/full", file));
  await write(guest, "one\n");
  await write(guest, "two\n");
  await eventually("both lines", () => (log.tail === "one\ntwo\n" ? true : undefined), within);
});

test("close() ends it, also twice", async (t) => {
  const { log } = await open(t);
  log.close();
  log.close();
  await orAbandon(log.ended, "the end", within);
});
