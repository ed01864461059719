import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { closeSync, writeSync, type openSync } from "node:fs";
import { test } from "node:test";
import { encodeHello } from "../../shared/channel/packet.ts";
import { socketPair } from "../../shared/linux/unix-socket.ts";
import { GuestPort } from "./port.ts";

test("a port that is still busy, as it is while a program is being started, is opened later", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const [guest, host] = socketPair();
  const tried = new EventEmitter();
  let tries = 0, busy = true;
  const open: typeof openSync = () => {
    tries++;
    tried.emit("again");
    if (busy) throw Object.assign(new Error("EBUSY: resource busy or locked"), { code: "EBUSY" });
    return guest;
  };
  const session = new Promise<void>((resolve) => { new GuestPort("/dev/vport", () => resolve(), { open }); });
  for (let tick = 0; tick < 2; tick++) context.mock.timers.tick(10);
  assert.equal(tries, 3);
  busy = false;
  context.mock.timers.tick(10);
  assert.equal(tries, 4);
  writeSync(host, encodeHello(Buffer.from("0123456789abcdef")));
  await session;
  busy = true; // when the host has gone, the port waits for the next one, by a timer that never runs
  const again = once(tried, "again");
  closeSync(host);
  await again;
});
