import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError } from "../../shared/base/errors.ts";
import { openPort } from "./transport.ts";

test("openPort() that was given up greets nobody any more, whoever listens there next", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "casemate-transport-"));
  let connections = 0;
  const server = createServer((socket) => {
    connections++;
    socket.destroy();
  });
  t.after(() => {
    server.close();
    rmSync(folder, { recursive: true });
  });
  const path = join(folder, "control.sock");
  await new Promise<void>((resolve) => { server.listen(path, resolve); });
  const abort = new AbortController();
  const opening = openPort(path, { timeoutMs: 10_000, signal: abort.signal });
  opening.catch(() => { /* looked at below */ });
  while (connections < 3) await delay(5);
  abort.abort();
  await assert.rejects(opening, (error) => RuntimeError.is(error));
  const before = connections;
  await delay(200);
  assert.equal(connections, before);
});
