// Casemate as an ordinary user with a home folder: what works, and how it refuses what does not.
// - state in the XDG folders, nothing of it in the system's, templates included
// - a container without a network, and one with a published port through passt
// - volumes and low ports say that they need root
import assert from "node:assert/strict";
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { stateFolders } from "../../src/host/store/paths.ts";
import { listTemplates } from "../../src/host/template/template-store.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import type { RunResult } from "../../src/shared/linux/run-process.ts";
import { watchHost, type HostWatch } from "../support/host-clean.ts";
import { nobody, runAsNobody } from "../support/ordinary-user.ts";
import { freePort } from "../support/registry.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const timeoutMs = 180_000;
const launcher = join(import.meta.dirname, "../../bin/casemate");
let host: HostWatch;
let home: string;

before(() => {
  if (skip !== false) return;
  host = watchHost();
  home = mkdtempSync("/tmp/cm-home-");
  chmodSync(home, 0o755);
  for (const path of [".local", ".local/share", ".local/share/casemate", ".local/share/casemate/guest", "run"]) mkdirSync(join(home, path), { mode: 0o700 });
  // Root's kernel, since fetching one takes a minute; the image is made by the user.
  symlinkSync(join(stateFolders(undefined).data, "guest/kernels"), join(home, ".local/share/casemate/guest/kernels"));
  for (const path of ["", ".local", ".local/share", ".local/share/casemate", ".local/share/casemate/guest", "run"]) chownSync(join(home, path), nobody, nobody);
});

after(async () => {
  if (skip !== false) return;
  rmSync(home, { recursive: true, force: true });
  await host.assertHostClean();
});

async function casemate(...args: readonly string[]): Promise<RunResult> {
  const env = { PATH: process.env["PATH"], HOME: home, XDG_RUNTIME_DIR: join(home, "run") };
  return runAsNobody(launcher, ["--debug", ...args], { timeoutMs, env, okExitCodes: [0, 125] });
}

const run = ["run", "--rm", "-q", "--template", "off"];

test("2.6 Rootless: a container without a network runs from a template of the user's own, with all state in the user's folders", { skip, timeout: timeoutMs }, async () => {
  const ofRoot = (): string[] => listTemplates(stateFolders(undefined)).map(({ template }) => template.key);
  const before = ofRoot();
  const { exitCode, stdout, stderr } = await casemate("run", "--rm", "-q", "--network", "none", "busybox", "sh", "-c", "id -u; echo $0");
  assert.deepEqual([exitCode, stdout.toString()], [0, "0\nsh\n"], stderr);
  assert.ok(existsSync(join(home, ".local/share/casemate/images")));
  const [made, ...others] = (await casemate("template", "prune", "--all")).stdout.toString().trim().split("\n");
  assert.match(made ?? "", /^[0-9a-f]{32}$/, "made by the user, without root's");
  assert.deepEqual([others, ofRoot()], [[], before]);
  await untilEnded();
});

test("a published port is reached through passt", { skip, timeout: timeoutMs }, async () => {
  const port = await freePort();
  const { exitCode, stderr } = await casemate("run", "-d", "-q", "--template", "off", "--name", "web", "-p", `127.0.0.1:${port}:80`, "busybox", "httpd", "-f", "-p", "80");
  assert.equal(exitCode, 0, stderr);
  const answer = await eventually("the container's answer", async () => fetch(`http://127.0.0.1:${port}/`).catch(() => undefined), { timeoutMs: 10_000, intervalMs: 100 });
  assert.equal(answer.status, 404);
  assert.equal((await casemate("rm", "-f", "web")).exitCode, 0);
  await untilEnded();
});

test("what needs root says so, and what to do", { skip, timeout: timeoutMs }, async () => {
  const volume = await casemate(...run, "-v", `${home}:/h`, "busybox", "true");
  assert.equal(volume.exitCode, 125);
  assert.match(volume.stderr, /\[unimplemented, needs_root\]/);
  assert.match(volume.stderr, /hint: .*as root/);
  const port = await casemate(...run, "-p", "80:80", "busybox", "true");
  assert.equal(port.exitCode, 125);
  assert.match(port.stderr, /\[failed_precondition, port_(privileged|taken)\]/);
  await untilEnded();
});

/** Sandboxes end after the command that started them. */
async function untilEnded(): Promise<void> {
  const sandboxes = join(home, "run/casemate/sandboxes");
  await eventually("the end of the sandboxes", () => (!existsSync(sandboxes) || readdirSync(sandboxes).length === 0 ? true : undefined), { timeoutMs: 10_000 });
}
