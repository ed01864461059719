import assert from "node:assert/strict";
import { closeSync, fstatSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { eventually, orAbandon } from "../../../shared/base/deadline.ts";
import { RuntimeError, describeError, type ErrorCode } from "../../../shared/base/errors.ts";
import { QmpDouble, type QmpDoubleOptions } from "../../../../test/support/qmp-double.ts";
import { QmpClient, type QmpEvent } from "./qmp-client.ts";

const folder = mkdtempSync(join(tmpdir(), "casemate-qmp-"));
after(() => rmSync(folder, { recursive: true, force: true }));
let number = 0;

/** A double, and its path; the clients of a test are closed before it. */
async function listen(options?: QmpDoubleOptions): Promise<{ double: QmpDouble; path: string; connect: () => Promise<QmpClient> } & AsyncDisposable> {
  const path = join(folder, `${number++}.sock`);
  const double = await QmpDouble.listen({ path }, options);
  const clients: QmpClient[] = [];
  const connect = async (): Promise<QmpClient> => {
    const client = await QmpClient.connect(path, { timeoutMs: 2_000 });
    clients.push(client);
    return client;
  };
  return { double, path, connect, [Symbol.asyncDispose]: async () => {
    for (const client of clients) client.close();
    await double[Symbol.asyncDispose]();
  } };
}

const failsWith = (code: ErrorCode, text: RegExp) => (error: unknown): boolean => RuntimeError.is(error, code) && text.test(describeError(error));

test("connect() takes the greeting and negotiates", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  assert.deepEqual(await client.execute("query-status"), { status: "running", singlestep: false, running: true });
  assert.deepEqual(monitor.double.commands, ["qmp_capabilities", "query-status"]);
});

test("connect() gives up on a monitor that does not greet, and leaves no connection", async () => {
  await using monitor = await listen({ greets: false });
  await assert.rejects(QmpClient.connect(monitor.path, { timeoutMs: 50 }), failsWith("deadline_exceeded", /connect to QMP: wait for QMP's greeting/));
});

test("connect() to nothing is unavailable", async () => {
  await assert.rejects(QmpClient.connect(join(folder, "nobody.sock"), { timeoutMs: 1_000 }), (error) => RuntimeError.is(error, "not_found"));
});

test("connect() can be canceled", async () => {
  await using monitor = await listen({ greets: false });
  const abort = new AbortController();
  const connecting = QmpClient.connect(monitor.path, { signal: abort.signal });
  abort.abort();
  await assert.rejects(connecting, failsWith("canceled", /greeting/));
});

test("execute() matches answers by id, in whatever order they come", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  const release = monitor.double.hold("query-status");
  const first = client.execute("query-status");
  const order: string[] = [];
  void first.then(() => order.push("query-status"));
  assert.deepEqual(await client.execute("query-fdsets"), []);
  order.push("query-fdsets");
  release();
  assert.deepEqual(await first, { status: "running", singlestep: false, running: true });
  assert.deepEqual(order, ["query-fdsets", "query-status"]);
});

test("execute() tells QEMU's text, and a code that fits its class", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  await assert.rejects(client.execute("nonsense"), failsWith("unimplemented", /^QMP nonsense: The command nonsense has not been found$/));
  await assert.rejects(client.execute("device_del", { id: "d" }), failsWith("not_found", /Device 'd' not found/));
  await assert.rejects(client.execute("getfd", { fdname: "a" }), failsWith("internal", /No file descriptor supplied/));
});

test("execute() gives up after its time; a late answer harms nobody", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  const release = monitor.double.hold("stop");
  await assert.rejects(client.execute("stop", {}, { timeoutMs: 30 }), failsWith("deadline_exceeded", /QMP stop/));
  release();
  assert.deepEqual(await client.execute("query-fdsets"), []);
});

test("execute() ends when its caller cancels", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  monitor.double.hold("stop");
  const abort = new AbortController();
  const stopping = client.execute("stop", {}, { signal: abort.signal });
  abort.abort();
  await assert.rejects(stopping, failsWith("canceled", /QMP stop/));
});

test("a descriptor reaches the other side, and ours stays open", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  const path = join(folder, "disk");
  writeFileSync(path, "content");
  const fd = openSync(path, "r");
  try {
    await client.execute("getfd", { fdname: "disk" }, { fd });
    const theirs = monitor.double.vmm.namedFd("disk");
    assert.ok(theirs !== undefined && theirs !== fd);
    assert.equal(fstatSync(theirs).ino, fstatSync(fd).ino);
  } finally {
    closeSync(fd);
  }
});

test("many commands at once with descriptors keep each with its own", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  const files = Array.from({ length: 20 }, (_, index) => {
    const path = join(folder, `file-${index}`);
    writeFileSync(path, "");
    return openSync(path, "r");
  });
  try {
    await Promise.all(files.map((fd, index) => client.execute("getfd", { fdname: `f${index}` }, { fd })));
    for (const [index, fd] of files.entries()) assert.equal(fstatSync(monitor.double.vmm.namedFd(`f${index}`) ?? -1).ino, fstatSync(fd).ino);
  } finally {
    for (const fd of files) closeSync(fd);
  }
});

test("events() gives what the filter lets through, from the call on, and ends with the connection", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  const events = client.events(({ event }) => event !== "NOISE");
  monitor.double.emit("NOISE");
  monitor.double.emit("FIRST", { value: 1 });
  monitor.double.emit("SECOND");
  await client.execute("query-status"); // what was emitted before has arrived by now, and nobody was reading
  monitor.double.drop();
  const seen: QmpEvent[] = [];
  for await (const event of events) seen.push(event);
  assert.deepEqual(seen, [{ event: "FIRST", data: { value: 1 } }, { event: "SECOND", data: {} }]);
});

test("events() stops when its reader leaves, a waiting one too", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  const events = client.events(() => true);
  const waiting = events.next();
  const left = events.return(undefined);
  assert.equal((await orAbandon(waiting, "the end of the events", { timeoutMs: 1_000 })).done, true);
  await left;
  const more = client.events(() => true);
  monitor.double.emit("ONE");
  for await (const { event } of more) {
    assert.equal(event, "ONE");
    break;
  }
});

test("nextEvent() waits for one event, up to its time or the end of the connection", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  const wanted = client.nextEvent("the second", ({ data }) => data["number"] === 2);
  monitor.double.emit("E", { number: 1 });
  monitor.double.emit("E", { number: 2 });
  assert.deepEqual(await wanted, { event: "E", data: { number: 2 } });
  await assert.rejects(client.nextEvent("what never comes", () => true, { timeoutMs: 20 }), failsWith("deadline_exceeded", /what never comes/));
  const cut = client.nextEvent("an event", () => true);
  monitor.double.drop();
  await assert.rejects(cut, failsWith("unavailable", /QMP connection/));
});

test("a lost connection rejects every waiter at once, and all later commands", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  monitor.double.hold("stop");
  const waiters = [client.execute("stop"), client.execute("stop"), client.nextEvent("an event", ({ event }) => event === "NEVER")];
  await eventually("the commands' arrival", () => (monitor.double.commands.length === 3 ? true : undefined), { timeoutMs: 2_000 });
  monitor.double.drop();
  const outcomes = await orAbandon(Promise.allSettled(waiters), "the waiters", { timeoutMs: 1_000 });
  assert.deepEqual(outcomes.map((outcome) => outcome.status === "rejected" && RuntimeError.is(outcome.reason, "unavailable")), [true, true, true]);
  assert.ok(RuntimeError.is(await client.closed, "unavailable"));
  await assert.rejects(client.execute("cont"), failsWith("unavailable", /QMP cont/));
  await assert.rejects(client.nextEvent("an event", () => true), failsWith("unavailable", /QMP connection/));
});

test("a monitor that shuts down its side only is a lost connection too", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  await client.execute("quit");
  assert.ok(RuntimeError.is(await orAbandon(client.closed, "the end", { timeoutMs: 1_000 }), "unavailable"));
});

test("close() rejects what waits and may be called twice", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  monitor.double.hold("stop");
  const stopping = client.execute("stop");
  client.close();
  client.close();
  await assert.rejects(stopping, failsWith("unavailable", /closed by us/));
});

test("a new connection works after the old one, with the machine as it was", async () => {
  await using monitor = await listen();
  const first = await monitor.connect();
  await first.execute("stop");
  monitor.double.drop();
  await first.closed;
  const second = await monitor.connect();
  assert.deepEqual(await second.execute("query-status"), { status: "paused", singlestep: false, running: false });
});

test("what is not JSON ends the connection as data_loss", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  monitor.double.hold("stop");
  const stopping = client.execute("stop");
  await eventually("the command's arrival", () => (monitor.double.commands.includes("stop") ? true : undefined), { timeoutMs: 2_000 });
  monitor.double.send("{\"return\": tru\n");
  await assert.rejects(stopping, failsWith("data_loss", /not JSON/));
});

test("a line without end is cut off instead of filling memory", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  const piece = Buffer.alloc(1024 * 1024, "x");
  for (let sent = 0; sent <= 16; sent++) monitor.double.send(piece);
  assert.ok(failsWith("data_loss", /line of more than/)(await orAbandon(client.closed, "the end", { timeoutMs: 5_000 })));
});

test("a long answer, an answer in pieces, several in one piece, and unknown ones are all right", async () => {
  await using monitor = await listen();
  const client = await monitor.connect();
  const release = monitor.double.hold("query-status");
  const answer = client.execute("query-status");
  const event = client.nextEvent("the long event", (found) => found.event === "LONG");
  const long = JSON.stringify({ event: "LONG", data: { text: "y".repeat(2_000_000) } });
  monitor.double.send(`{"return": {}, "id": 99999}\r\n{"return": {}}\r\n5\nnull\n[]\n{"event": 5}\n${long.slice(0, 100)}`);
  monitor.double.send(`${long.slice(100)}\n`);
  assert.equal(String((await event).data["text"]).length, 2_000_000);
  release();
  assert.deepEqual(await answer, { status: "running", singlestep: false, running: true });
});
