// The library in one running sandbox:
// - run: output, codes, signals, input, limits that reach everything the command has started
// - spawn: streams, lines, half-close, back-pressure, signals, terminals
// - files: content, lists, trees, links that would lead out, changes
// - what it knows of itself: ports, logs, events
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { after, before, test } from "node:test";
import { RunError, RuntimeError, Sandbox } from "../../src/index.ts";
import { useCasemate } from "../support/cli.ts";

let sandbox: Sandbox;
after(async () => sandbox.close()); // before the folders go
const casemate = useCasemate();
const root = casemate.folders.data;

before(async () => {
  sandbox = await Sandbox.create({
    root, image: "busybox", name: "library", env: { GREETING: "hello" }, memoryMiB: 256, labels: { made: "by a test" }, ports: [80],
    command: "mkdir /www; echo page >/www/index.html; echo serving; exec httpd -f -p 80 -h /www",
  });
});

const code = (wanted: string, reason?: string) => (error: unknown): boolean => RuntimeError.is(error) && error.code === wanted && (reason === undefined || error.reason === reason);
const seconds = async (work: Promise<unknown>): Promise<number> => {
  const began = performance.now();
  await work;
  return (performance.now() - began) / 1000;
};

test("run() collects both streams and the exit code, quickly", async () => {
  const result = await sandbox.run(["sh", "-c", "echo $GREETING; echo problem >&2; exit 3"]);
  assert.deepEqual([result.stdout, result.stderr, result.exitCode, result.signal, result.oomKilled], ["hello\n", "problem\n", 3, null, false]);
  assert.ok(result.durationMs < 5_000, `took ${result.durationMs} ms`);
});

test("run() passes input, environment, folder and user on", async () => {
  const { stdout } = await sandbox.run("cat; pwd; id -u; echo $A", { stdin: "in\n", env: { A: "b" }, cwd: "/tmp", user: "1000" });
  assert.equal(stdout, "in\n/tmp\n1000\nb\n");
});

test("run() says which signal ended a command", async () => {
  const { exitCode, signal } = await sandbox.run("kill -KILL $$");
  assert.deepEqual([exitCode, signal], [137, "SIGKILL"]);
});

test("run() of a program that is not there rejects", async () => {
  await assert.rejects(sandbox.run(["nowhere"]), code("not_found", "executable_not_found"));
});

test("run() with a time limit ends all a command has started, and gives what it had printed", async () => {
  const script = "echo part; (setsid sleep 7777 &); sleep 7777 & sleep 7777";
  const took = await seconds(assert.rejects(sandbox.run(script, { timeoutMs: 1_500 }), (error: unknown) =>
    error instanceof RunError && error.code === "deadline_exceeded" && error.stdout === "part\n"));
  assert.ok(took < 8, `took ${took} s`);
  assert.doesNotMatch((await sandbox.run("ps")).stdout, /7777/);
});

test("run() that is given up ends the command", async () => {
  const stop = new AbortController();
  const running = sandbox.run("echo begun; sleep 8888", { signal: stop.signal });
  setTimeout(() => stop.abort(), 1_000);
  await assert.rejects(running, (error: unknown) => error instanceof RunError && error.code === "canceled");
  assert.doesNotMatch((await sandbox.run("ps")).stdout, /8888/);
});

test("run() of a command that prints without end stops at the output limit", async () => {
  await assert.rejects(sandbox.run("yes", { maxOutputBytes: 100_000 }), (error: unknown) =>
    error instanceof RunError && error.code === "resource_exhausted" && error.reason === "output_limit" && error.stdout.length === 100_000);
  assert.doesNotMatch((await sandbox.run("ps")).stdout, / yes/);
});

test("spawn() gives lines as they come, and input its own end", async () => {
  const cat = sandbox.spawn(["cat"], { stdin: "pipe" });
  const lines = cat.stdout.lines();
  cat.stdin.write("one\ntw");
  assert.equal((await lines.next()).value, "one");
  cat.stdin.end("o\nlast");
  assert.deepEqual([(await lines.next()).value, (await lines.next()).value, (await lines.next()).done], ["two", "last", true]);
  assert.deepEqual(await cat.wait(), { exitCode: 0, signal: null, oomKilled: false });
});

test("spawn(): 32 MiB go through a process and back unharmed", async () => {
  const sent = randomBytes(1024 * 1024);
  const process = sandbox.spawn(["cat"], { stdin: "pipe" });
  const hash = createHash("sha256");
  const reading = pipeline(process.stdout, hash);
  await pipeline(Readable.from(Array.from({ length: 32 }, () => sent)), process.stdin);
  await Promise.all([reading, process.wait()]);
  const expected = createHash("sha256");
  for (let count = 0; count < 32; count++) expected.update(sent);
  assert.equal(hash.digest("hex"), expected.digest("hex"));
});

test("spawn(): a process waits for a reader that does not read", async () => {
  const process = sandbox.spawn("i=0; while dd if=/dev/zero bs=64k count=1 2>/dev/null; do i=$((i+1)); echo $i >/tmp/pieces; done");
  await process.started;
  await new Promise((resolve) => setTimeout(resolve, 4_000));
  const pieces = Number(await sandbox.files.read("/tmp/pieces"));
  assert.ok(pieces > 0 && pieces * 64 * 1024 <= 2 * 1024 * 1024, `${pieces} pieces of 64 KiB`);
  await process.killTree();
  process.stdout.resume();
  assert.equal((await process.wait()).exitCode, 137);
});

test("spawn(): signals reach the process", async () => {
  const process = sandbox.spawn("trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 1; done");
  const lines = process.stdout.lines();
  assert.equal((await lines.next()).value, "ready");
  await process.kill("SIGUSR1");
  assert.equal((await lines.next()).value, "got");
  assert.equal((await process.wait()).exitCode, 9);
  await process.kill(); // after its end: nothing to do
});

test("spawn(): a terminal has its size before the first line, and another when told", async () => {
  const shell = sandbox.spawn("stty size; read x; stty size", { pty: { rows: 30, columns: 100 } });
  const lines = shell.stdout.lines();
  assert.equal((await lines.next()).value, "30 100");
  await shell.resize({ rows: 40, columns: 120 });
  shell.stdin.write("\n");
  const rest: string[] = [];
  for await (const line of lines) rest.push(line);
  assert.equal(rest.at(-1), "40 120");
  assert.equal((await shell.wait()).exitCode, 0);
});

test("spawn(): a process without input says so, one that cannot start rejects its wait", async () => {
  const process = sandbox.spawn(["nowhere"]);
  assert.throws(() => process.stdin, code("failed_precondition", "no_stdin"));
  await assert.rejects(process.wait(), code("not_found", "executable_not_found"));
  assert.equal(await process.stdout.text(), "");
});

test("files: text, bytes, streams and facts", async () => {
  const { files } = sandbox;
  await files.mkdir("/w/deep/er", { recursive: true });
  await files.write("/w/a.txt", "one");
  await files.write("/w/a.txt", " two", { append: true });
  assert.equal(await files.read("/w/a.txt"), "one two");
  const bytes = randomBytes(3 * 1024 * 1024 + 7);
  await pipeline(Readable.from([bytes]), files.writeStream("/w/b", { mode: 0o600 }));
  const collected: Buffer[] = [];
  for await (const chunk of files.readStream("/w/b") as AsyncIterable<Buffer>) collected.push(chunk);
  assert.ok(Buffer.concat(collected).equals(bytes));
  assert.equal((await sandbox.run("sha256sum </w/b")).stdout.slice(0, 64), createHash("sha256").update(bytes).digest("hex"));
  assert.deepEqual((await files.list("/w")).map(({ name, type, mode }) => [name, type, mode]), [["a.txt", "file", 0o644], ["b", "file", 0o600], ["deep", "folder", 0o755]]);
  await files.rename("/w/b", "/w/deep/b");
  await files.setAttributes("/w/deep/b", { mode: 0o640, uid: 5 });
  const { mode, uid, sizeBytes } = await files.stat("/w/deep/b");
  assert.deepEqual([mode, uid, sizeBytes], [0o640, 5, bytes.length]);
  await files.remove("/w", { recursive: true });
  assert.equal(await files.exists("/w"), false);
  await assert.rejects(files.read("/w/a.txt"), code("not_found"));
});

test("files: links of the container lead nowhere but into the container", async () => {
  await sandbox.run("ln -s / /root-link; ln -s ../../../../../../etc/hostname /up-link; mkdir -p /d; ln -s /proc/1/root /d/magic");
  const { files } = sandbox;
  assert.equal(await files.read("/root-link/www/index.html"), "page\n"); // "/" is the container's
  assert.equal(await files.read("/up-link"), (await sandbox.run("cat /etc/hostname")).stdout);
  await assert.rejects(files.read("/d/magic/etc/hostname"));
  await files.remove("/root-link", { recursive: true });
  assert.equal(await files.exists("/www/index.html"), true);
});

test("files: trees go up and down with links as links", async (context) => {
  const folder = mkdtempSync("/tmp/cm-tree-");
  context.after(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, "tree/sub"), { recursive: true });
  writeFileSync(join(folder, "tree/run.sh"), "#!/bin/sh\necho ran\n", { mode: 0o755 });
  writeFileSync(join(folder, "tree/sub/data"), randomBytes(700_000));
  symlinkSync("/etc/passwd", join(folder, "tree/outside"));
  await sandbox.files.upload(join(folder, "tree"), "/tree");
  assert.equal((await sandbox.run("/tree/run.sh; readlink /tree/outside")).stdout, "ran\n/etc/passwd\n");
  await sandbox.files.download("/tree", join(folder, "back"));
  assert.equal(readlinkSync(join(folder, "back/outside")), "/etc/passwd");
  assert.equal(statSync(join(folder, "back/run.sh")).mode & 0o777, 0o755);
  assert.ok(readFileSync(join(folder, "back/sub/data")).equals(readFileSync(join(folder, "tree/sub/data"))));
  // A link that waits on the host is replaced, not followed.
  writeFileSync(join(folder, "precious"), "mine");
  symlinkSync(join(folder, "precious"), join(folder, "trap"));
  await sandbox.files.download("/tree/run.sh", join(folder, "trap"));
  assert.equal(readFileSync(join(folder, "precious"), "utf8"), "mine");
});

test("files: a watch tells of what changes from then on", async () => {
  await sandbox.files.mkdir("/watched");
  const stop = new AbortController();
  const changes = (await sandbox.files.watch("/watched", { signal: stop.signal }))[Symbol.asyncIterator]();
  await sandbox.run("echo x >/watched/new");
  assert.deepEqual((await changes.next()).value, { type: "rename", name: "new" });
  stop.abort();
  while ((await changes.next()).done !== true) { /* the rest of what was seen */ }
});

test("a published port answers at url()", async () => {
  assert.equal(await (await fetch(sandbox.url(80))).text(), "page\n");
  assert.throws(() => sandbox.url(81), code("failed_precondition", "port_not_published"));
});

test("logs() has what the first process has printed, events() what happens", async () => {
  const logged: string[] = [];
  for await (const { text } of sandbox.logs()) logged.push(text);
  assert.equal(logged.join(""), "serving\n");
  const stop = new AbortController();
  const events = sandbox.events({ signal: stop.signal });
  const first = events.next();
  await new Promise((resolve) => setTimeout(resolve, 200)); // "from now on" has no answer of its own
  await sandbox.run(["true"]);
  assert.match((await first).value?.action ?? "", /^exec_/);
  stop.abort();
});

test("pause() holds its processes, resume() lets them go on", async () => {
  await sandbox.pause();
  assert.equal(sandbox.info().status, "paused");
  await assert.rejects(sandbox.run(["true"]), code("failed_precondition"));
  await sandbox.resume();
  assert.equal((await sandbox.run(["true"])).exitCode, 0);
});

test("the command and another program see the same sandbox", async () => {
  assert.match(await casemate.ok(["ps", "--format", "json"]), /"Names":"library"/);
  await using same = await Sandbox.load("library", { root });
  assert.equal(same.id, sandbox.id);
  assert.equal((await same.run("echo same")).stdout, "same\n");
  await same.close();
  await assert.rejects(same.run(["true"]), code("failed_precondition", "sandbox_closed"));
  const listed = (await Sandbox.list({ root })).find(({ id }) => id === sandbox.id);
  assert.deepEqual([listed?.name, listed?.labels["made"]], ["library", "by a test"]);
  await assert.rejects(Sandbox.load("nobody", { root }), code("not_found", "container_not_found"));
});

test("when a sandbox ends, what was under way says so", async () => {
  const process = sandbox.spawn(["sleep", "999"]);
  await process.started;
  const ended = assert.rejects(process.wait(), code("unavailable", "sandbox_gone"));
  const took = await seconds(sandbox.kill());
  await ended;
  assert.ok(took < 10, `took ${took} s`);
  await sandbox.kill();
  assert.equal(existsSync(join(root, "containers", sandbox.id)), false);
});
