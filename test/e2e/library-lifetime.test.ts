// How long a sandbox lives:
// - a program that is killed takes its sandboxes with it, one that ends by itself too
// - a detached one stays, can be found again and be taken over
// - time limits are kept by the owner
// - a start that fails or is given up leaves nothing
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { RuntimeError, Sandbox } from "../../src/index.ts";
import { useCasemate } from "../support/cli.ts";

const casemate = useCasemate();
const root = casemate.folders.data;
const library = join(import.meta.dirname, "../../dist/index.js");

/** A program of its own that uses the built library; its lines are what it has to say. */
class Program implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(code: string) {
    const source = `import { Sandbox } from ${JSON.stringify(library)}; const root = ${JSON.stringify(root)}; ${code}`;
    this.child = spawn(process.execPath, ["--input-type=module", "-e", source], { stdio: ["ignore", "pipe", "inherit"] });
    if (this.child.stdout === null) throw new Error("no pipe");
    this.#lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }

  async line(): Promise<string> {
    return String((await this.#lines.next()).value);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill("SIGKILL");
    await once(this.child, "exit");
  }
}

const running = async (): Promise<number> => (await Sandbox.list({ root })).filter(({ status }) => status === "running").length;
const gone = (timeoutMs: number): Promise<true> => eventually("wait until no sandbox runs", async () => ((await running()) === 0 ? true as const : undefined), { timeoutMs, intervalMs: 100 });

test("a program with five sandboxes that is killed leaves none after 10 s", async () => {
  await using program = new Program(`
    const all = await Promise.all([1, 2, 3, 4, 5].map(() => Sandbox.create({ root, image: "busybox", network: "none" })));
    console.log(all.length);
    await new Promise(() => setInterval(() => {}, 1000));`);
  assert.equal(await program.line(), "5");
  assert.equal(await running(), 5);
  program.child.kill("SIGKILL");
  await gone(10_000);
  assert.equal((await Sandbox.list({ root })).length, 0);
});

test("a program that ends without disposing ends, and its sandbox with it", async () => {
  await using program = new Program(`
    const sandbox = await Sandbox.create({ root, image: "busybox", network: "none" });
    console.log((await sandbox.run("echo done")).stdout.trim());`);
  assert.equal(await program.line(), "done");
  const [exitCode] = await once(program.child, "exit") as [number];
  assert.equal(exitCode, 0);
  await gone(10_000);
});

test("a detached sandbox outlives its program, and ends with the one that takes it over", async () => {
  await using first = new Program(`
    const sandbox = await Sandbox.create({ root, image: "busybox", network: "none", name: "kept" });
    await sandbox.files.write("/note", "from the first");
    await sandbox.detach();
    console.log("detached");`);
  assert.equal(await first.line(), "detached");
  await once(first.child, "exit");
  await using second = new Program(`
    const sandbox = await Sandbox.load("kept", { root, lease: true });
    console.log(await sandbox.files.read("/note"));
    await new Promise(() => setInterval(() => {}, 1000));`);
  assert.equal(await second.line(), "from the first");
  second.child.kill("SIGKILL");
  await gone(10_000);
});

test("time limits end a sandbox whoever is connected; use holds off the idle one", async () => {
  await using total = await Sandbox.create({ root, image: "busybox", network: "none", timeoutMs: 60_000 });
  await total.setTimeouts({ idleTimeoutMs: 1_500 });
  assert.equal((await total.run("sleep 3; echo busy")).stdout, "busy\n");
  await gone(10_000);
  await assert.rejects(total.run(["true"]), (error: unknown) => RuntimeError.is(error, "unavailable") && error.reason === "sandbox_gone");
});

test("a snapshot is gone on from, and forks leave the parent its streams", async () => {
  await using parent = await Sandbox.create({ root, image: "busybox", network: "none" });
  const cat = parent.spawn(["cat"], { stdin: "pipe" });
  const lines = cat.stdout.lines();
  cat.stdin.write("before\n");
  assert.equal((await lines.next()).value, "before");
  await parent.run("echo $$ >/tmp/mark; (sleep 9999 &)");
  const { name, pauseMs } = await parent.snapshot("warm");
  assert.ok(name === "warm" && pauseMs > 0);
  await using restored = await Sandbox.restore("warm", { root });
  assert.match((await restored.run("cat /tmp/mark; ps")).stdout, /9999/);
  const copies = await parent.fork({ root, count: 2 });
  for (const [index, copy] of copies.entries()) await copy.files.write("/tmp/own", String(index));
  assert.deepEqual(await Promise.all(copies.map((copy) => copy.files.read("/tmp/own"))), ["0", "1"]);
  assert.equal(await parent.files.exists("/tmp/own"), false);
  cat.stdin.end("after\n");
  assert.equal((await lines.next()).value, "after");
  for (const copy of copies) await copy.close();
  assert.deepEqual((await Sandbox.snapshots({ root })).map((one) => one.name), ["warm"]);
  await Sandbox.removeSnapshot("warm", { root });
  await assert.rejects(Sandbox.restore("warm", { root }), (error: unknown) => RuntimeError.is(error, "not_found"));
});

test("a start that cannot be, or is given up, leaves nothing", async () => {
  await assert.rejects(Sandbox.create({ root, image: "no.such.registry.invalid/nothing" }));
  await assert.rejects(Sandbox.create({ root, image: "busybox", user: "nobody-there", network: "none" }), (error: unknown) => RuntimeError.is(error) && error.reason === "user_not_found");
  const stop = new AbortController();
  const given = Sandbox.create({ root, image: "busybox", network: "none", signal: stop.signal, onProgress: (what) => { if (what === "starting the sandbox") setTimeout(() => stop.abort(), 80); } });
  await assert.rejects(given, (error: unknown) => RuntimeError.is(error, "canceled"));
  await gone(20_000);
  assert.equal((await Sandbox.list({ root })).length, 0);
});

test("importing the package does nothing, and require() gets it too", async () => {
  const child = spawn(process.execPath, ["-e", `const before = process.getActiveResourcesInfo().length; const { Sandbox } = require(${JSON.stringify(library)}); console.log(typeof Sandbox.create, process.getActiveResourcesInfo().length - before)`], { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  for await (const chunk of child.stdout) output += String(chunk);
  assert.equal(output, "function 0\n");
});
