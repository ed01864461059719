import assert from "node:assert/strict";
import { closeSync, constants, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { encodeHello } from "../../shared/channel/packet.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import { GuestPort } from "./port.ts";

test("a port that is still busy, as it is while a program is being started, is opened later", async (context) => {
  const folder = mkdtempSync(join(tmpdir(), "cm-port-"));
  const path = join(folder, "port");
  await runProcess("mkfifo", [path]);
  const host = openSync(path, constants.O_RDWR);
  context.mock.timers.enable({ apis: ["setTimeout"] });
  let tries = 0, busy = true;
  const open: typeof openSync = (file) => {
    tries++;
    if (busy) throw Object.assign(new Error("EBUSY: resource busy or locked"), { code: "EBUSY" });
    return openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  };
  try {
    const session = new Promise<void>((resolve) => { new GuestPort(path, () => resolve(), open); });
    for (let tick = 0; tick < 2; tick++) context.mock.timers.tick(10);
    assert.equal(tries, 3);
    busy = false;
    context.mock.timers.tick(10);
    assert.equal(tries, 4);
    writeSync(host, encodeHello(Buffer.from("0123456789abcdef")));
    await session;
  } finally {
    busy = true; // when the host has gone, the port waits for the next one, by a timer that does not run
    closeSync(host);
    rmSync(folder, { recursive: true });
  }
});
