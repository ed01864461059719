import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawnSync } from "node:child_process";
import { afterEach, beforeEach, test } from "node:test";

// setup.sh in a copy of the checkout, with every program that changes the machine replaced by one that
// writes down how it was called.
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "casemate-setup-"));
  mkdirSync(join(folder, "bin"));
  for (const name of ["setup.sh", "progress.sh", "debian-packages.txt"]) cpSync(join(import.meta.dirname, name), join(folder, "scripts", name));
  writeFileSync(join(folder, "package-lock.json"), "{}");
  for (const tool of ["sh", "dirname", "sed", "grep", "cat", "rm", "mktemp", "date", "sleep", "head", "tail", "find", "cmp", "cp", "mkdir", "ln"]) symlinkSync(`/usr/bin/${tool}`, join(folder, "bin", tool));
  program("id", "echo 0");
  program("dpkg", "echo amd64");
  program("npm", 'echo "npm $*" >>"$LOG"; mkdir -p node_modules/.bin; ln -s /bin/true node_modules/.bin/node');
  program("apt-cache", 'echo "  Candidate: 1.0"');
  program("apt-get", 'echo "apt-get $*" >>"$LOG"');
  installed(allPackages());
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function program(name: string, body: string): void {
  writeFileSync(join(folder, "bin", name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
}

function installed(packages: readonly string[]): void {
  program("dpkg-query", packages.map((name) => `echo "installed ${name}"`).join("\n") || ":");
}

function allPackages(): string[] {
  return readFileSync(join(import.meta.dirname, "debian-packages.txt"), "utf8").split("\n").flatMap((line) => /^(?:run|test) +(\S+)/.exec(line)?.[1] ?? []);
}

function setup(args: readonly string[] = [], env: NodeJS.ProcessEnv = {}): { readonly code: number | null; readonly output: string; readonly calls: readonly string[] } {
  const log = join(folder, "log");
  rmSync(log, { force: true });
  const { status, stdout, stderr } = spawnSync("/bin/sh", [join(folder, "scripts/setup.sh"), ...args], { env: { PATH: join(folder, "bin"), LOG: log, TMPDIR: folder, ...env }, encoding: "utf8" });
  return { code: status, output: stdout + stderr, calls: existsSync(log) ? readFileSync(log, "utf8").trim().split("\n") : [] };
}

test("setup.sh installs npm packages once, and again when the lock file has changed", () => {
  const { output, ...rest } = setup();
  assert.match(output, /^Installing npm packages ...\nInstalling npm packages: done \(\d+ s\)\n$/);
  assert.deepEqual(rest, { code: 0, calls: ["npm ci --no-audit --no-fund --loglevel=warn"] });
  assert.deepEqual(setup(), { code: 0, output: "", calls: [] });
  writeFileSync(join(folder, "package-lock.json"), '{"changed":true}');
  rmSync(join(folder, "node_modules/.bin/node"));
  assert.equal(setup().calls.length, 1);
});

test("setup.sh installs only what is missing, without questions", () => {
  setup();
  installed(allPackages().filter((name) => name !== "crun" && name !== "umoci"));
  const { code, calls } = setup();
  assert.equal(code, 0);
  assert.equal(calls.length, 1);
  assert.match(calls[0] ?? "", /^apt-get install -y .*--no-install-recommends .* crun$/);
  assert.match(setup(["--test"]).calls[0] ?? "", / crun umoci$/);
});

test("setup.sh fetches the package lists only when they do not know a package", () => {
  setup();
  installed(allPackages().filter((name) => name !== "crun"));
  program("apt-cache", '[ -e "$LOG" ] && echo "  Candidate: 1.0" || echo "  Candidate: (none)"');
  assert.deepEqual(setup().calls.map((line) => line.split(" ")[1]), ["update", "install"]);
});

test("setup.sh fetches the lists again when the mirror no longer has what they name", () => {
  setup();
  installed(allPackages().filter((name) => name !== "crun"));
  program("apt-get", 'echo "apt-get $*" >>"$LOG"; [ "$1" = update ] || grep -q update "$LOG" || { echo "404 Not Found"; exit 100; }');
  const { code, calls } = setup();
  assert.equal(code, 0);
  assert.deepEqual(calls.map((line) => line.split(" ")[1]), ["install", "update", "install"]);
});

test("setup.sh waits for a held lock, and says so", () => {
  setup();
  installed(allPackages().filter((name) => name !== "crun"));
  program("apt-get", 'echo "apt-get $*" >>"$LOG"; [ "$(grep -c install "$LOG")" -gt 1 ] || { echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 12 (apt)" >&2; exit 100; }');
  const { code, calls } = setup();
  assert.equal(code, 0);
  assert.equal(calls.length, 2);
});

test("setup.sh gives up a held lock after its limit, naming the holder", () => {
  setup();
  installed(allPackages().filter((name) => name !== "crun"));
  program("apt-get", 'echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 12 (apt)" >&2; exit 100');
  const { code, output } = setup([], { CASEMATE_LOCK_LIMIT_S: "0" });
  assert.notEqual(code, 0);
  assert.match(output, /held by process 12/);
  assert.match(output, /for more than 0 s: wait for it to end, then run this again/);
});

test("setup.sh tells an ordinary user what to run", () => {
  setup();
  program("id", "echo 1000");
  installed(allPackages().filter((name) => name !== "crun"));
  const { code, output, calls } = setup();
  assert.equal(code, 1);
  assert.match(output, /sudo apt-get install --no-install-recommends crun/);
  assert.deepEqual(calls, []);
});
