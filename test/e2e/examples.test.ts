// The examples, run by the commands of their READMEs, with the package as npm packs it, in empty folders:
// - ai-tool prints what its README shows
// - code-runner answers as its README shows, keeps its limits and refuses what it cannot run
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { Sandbox } from "../../src/index.ts";
import { stateFolders } from "../../src/host/store/paths.ts";
import { releaseTemplateMemory } from "../../src/host/template/template-memory.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { npm } from "../support/npm.ts";

const root = join(import.meta.dirname, "../..");
const installTimeoutMs = 180_000;
const folder = mkdtempSync(join(tmpdir(), "cm-examples-"));
let tarball: string;

before(async () => {
  const { stdout } = await npm(["pack", "--json", "--ignore-scripts", "--pack-destination", folder], { cwd: root, timeoutMs: installTimeoutMs });
  const [packed] = JSON.parse(stdout.toString()) as readonly { readonly filename: string }[]; // npm's documented output
  tarball = join(folder, packed?.filename ?? "");
});
after(async () => {
  rmSync(folder, { recursive: true, force: true });
  await releaseTemplateMemory(stateFolders(undefined)); // it stays for the next start, which does not come
});

/** Code blocks of a README in one language. */
function blocks(readme: string, language: string): string[] {
  return [...readme.matchAll(/```(\w*)\n([^]*?)```/g)].filter(([, name]) => name === language).map(([, , text]) => text ?? "");
}

/** An example in a folder of its own, installed by the first block of its README. */
async function install(name: string): Promise<{ readonly cwd: string; readonly readme: string }> {
  const cwd = join(folder, name);
  cpSync(join(root, "examples", name), cwd, { recursive: true });
  const readme = readFileSync(join(cwd, "README.md"), "utf8");
  const [set] = blocks(readme, "sh");
  assert.equal(set, "npm install casemate\nnpm start\n");
  // The package is not published yet: the tarball stands for it.
  await npm(["install", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error", tarball], { cwd, timeoutMs: installTimeoutMs });
  return { cwd, readme };
}

test("the package resolves for whoever imports or requires it", async () => {
  await runProcess(process.execPath, [join(root, "node_modules/publint/src/cli.js"), "run", tarball, "--strict"], { cwd: root, timeoutMs: installTimeoutMs });
});

const noneLeft = (): Promise<true> => eventually("the end of the sandboxes", async () => ((await Sandbox.list()).length === 0 ? true as const : undefined), { timeoutMs: 10_000, intervalMs: 100 });

test("ai-tool prints what its README shows", { timeout: 2 * installTimeoutMs }, async () => {
  const { cwd, readme } = await install("ai-tool");
  const { stdout } = await npm(["start", "--silent"], { cwd, timeoutMs: 120_000 });
  assert.equal(stdout.toString(), blocks(readme, "text")[0]);
  await noneLeft();
});

test("code-runner answers as its README shows, and keeps its limits", { timeout: 2 * installTimeoutMs }, async () => {
  const { cwd, readme } = await install("code-runner");
  // Its own process, not npm's: the test ends it.
  const server = spawn(process.execPath, ["server.mjs"], { cwd, env: { ...process.env, PORT: "0" }, stdio: ["ignore", "pipe", "inherit"] });
  try {
    const address = String((await createInterface({ input: server.stdout })[Symbol.asyncIterator]().next()).value);
    const [, curl = ""] = blocks(readme, "sh");
    const [, body = ""] = /-d '([^']*)'/.exec(curl) ?? [];
    const shown = JSON.parse(blocks(readme, "json")[0] ?? "") as object; // our own page
    assert.deepEqual({ ...await post(address, body) as object, durationMs: 0 }, { ...shown, durationMs: 0 });
    const answers = await Promise.all([
      post(address, { language: "sh", code: "echo begun; sleep 100" }),
      post(address, { language: "sh", code: "yes" }),
      post(address, { language: "awk", code: "BEGIN { exit 3 }" }),
      post(address, { language: "cobol", code: "" }),
      post(address, "no JSON"),
    ]) as readonly { readonly limit?: string; readonly stdout?: string; readonly exitCode?: number; readonly error?: string }[];
    assert.deepEqual(answers.map(({ limit, exitCode, error }) => error ?? limit ?? exitCode), ["time", "output", 3, "language must be one of sh, awk, python, javascript", "the request must be JSON"]);
    assert.equal(answers[0]?.stdout, "begun\n");
    // One caller hangs up, then the server is killed under another.
    const hangUp = new AbortController();
    setTimeout(() => hangUp.abort(), 500);
    await assert.rejects(post(address, { language: "sh", code: "sleep 100" }, hangUp.signal));
    await noneLeft();
    const cut = post(address, { language: "sh", code: "sleep 100" });
    await eventually("a sandbox", async () => (await Sandbox.list()).find(({ status }) => status === "running"), { timeoutMs: 60_000 });
    server.kill("SIGKILL");
    await assert.rejects(cut);
    await noneLeft();
  } finally {
    await end(server);
  }
});

async function post(address: string, body: string | object, signal?: AbortSignal): Promise<unknown> {
  const response = await fetch(`${address}/run`, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body), ...(signal && { signal }) });
  return response.json();
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}
