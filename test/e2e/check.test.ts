// `casemate check`: what it says of this machine, of machines that lack something, and of other users.
import assert from "node:assert/strict";
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { HostCheck } from "../../src/host/containers/check-host.ts";
import type { GuestImage } from "../../src/host/guest-image/guest-image.ts";
import { stateFolders } from "../../src/host/store/paths.ts";
import { useCasemate } from "../support/cli.ts";
import { nobody, runAsNobody } from "../support/ordinary-user.ts";
import { requires } from "../support/requires.ts";

let folder: string;
// Registered before the state folders' own end, which looks at the whole host.
after(() => rmSync(folder, { recursive: true, force: true }));
const casemate = useCasemate();
before(() => { folder = mkdtempSync("/tmp/cm-check-"); });

interface Report { readonly canRun: boolean; readonly checks: readonly HostCheck[] }

async function check(env: NodeJS.ProcessEnv = {}): Promise<Report & { readonly code: number }> {
  const { code, stdout } = await casemate.run(["check", "--json"], { env });
  return { code, ...JSON.parse(stdout) as Report }; // printed by the command's check.ts
}

/** A PATH with every program of this machine but one. */
function pathWithout(name: string): string {
  const bin = mkdtempSync(join(folder, "bin-"));
  for (const from of ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].filter((path) => existsSync(path))) {
    for (const program of readdirSync(from)) if (program !== name && !existsSync(join(bin, program))) symlinkSync(join(from, program), join(bin, program));
  }
  return bin;
}

const named = ({ checks }: Report, name: string): HostCheck => checks.find((one) => one.name === name) ?? assert.fail(`no line for ${name}`);

test("this machine can run containers, and every line that is not ok says what would mend it", async () => {
  const report = await check();
  assert.deepEqual([report.code, report.canRun], [0, true]);
  for (const { name, state, code, detail, fix } of report.checks) {
    assert.ok(["ok", "missing", "degraded"].includes(state) && /^[a-z0-9_]+$/.test(code) && detail !== "", name);
    assert.equal(fix === "", state === "ok", name);
  }
  for (const name of ["node", "qemu-system-x86_64", "virtiofsd", "passt", "crun", "skopeo", "guest image", "accelerator", "memory", "disk", "cgroups", "tun", "fuse", "user"]) named(report, name);
  assert.match(named(report, "node").detail, /^v24\.21\.0 at /);
});

test("the text has a line for each check, with the mending command below it", async () => {
  const { code, stdout } = await casemate.run(["check"]);
  assert.equal(code, 0);
  assert.match(stdout, /^ok +node +v24\.21\.0 at /m);
  assert.match(stdout, /^ok +guest image +[0-9a-f]{32} with Linux \d/m);
  for (const [, code_ = "", fix = ""] of stdout.matchAll(/^(?:missing|degraded) .*\[(\w+)\]\n(.*)$/gm)) assert.match(fix, /^ +-> \S/, code_);
});

test("a tool that some runs do without is degraded, one that all need is missing: then nothing can run", async () => {
  const withoutSkopeo = await check({ PATH: pathWithout("skopeo") });
  assert.deepEqual([withoutSkopeo.code, withoutSkopeo.canRun], [0, true]);
  assert.deepEqual(named(withoutSkopeo, "skopeo"), { name: "skopeo", state: "degraded", code: "tool_missing", detail: "not installed: pulls images", fix: "apt-get install --no-install-recommends skopeo" });
  const withoutQemu = await check({ PATH: pathWithout("qemu-system-x86_64") });
  assert.deepEqual([withoutQemu.code, withoutQemu.canRun], [1, false]);
  assert.deepEqual([named(withoutQemu, "qemu-system-x86_64").state, named(withoutQemu, "qemu-system-x86_64").code, named(withoutQemu, "qemu-system-x86_64").fix], ["missing", "tool_missing", "apt-get install --no-install-recommends qemu-system-x86"]);
  assert.deepEqual([named(withoutQemu, "accelerator").state, named(withoutQemu, "accelerator").code], ["missing", "tool_missing"]);
});

test("a tool that does not run is told from one that is not there", async () => {
  const bin = mkdtempSync(join(folder, "broken-"));
  writeFileSync(join(bin, "passt"), "#!/bin/sh\necho 'cannot open shared object' >&2\nexit 127\n", { mode: 0o755 });
  const passt = named(await check({ PATH: `${bin}:${process.env["PATH"] ?? ""}` }), "passt");
  assert.deepEqual([passt.state, passt.code, passt.fix], ["degraded", "tool_broken", "apt-get install --reinstall passt"]);
  assert.match(passt.detail, /cannot open shared object/);
});

test("an ordinary user is told what root has beyond, and of a device that is not theirs", { skip: requires("root"), timeout: 120_000 }, async () => {
  const home = join(folder, "home");
  // Their own state, with root's kernel: fetching one takes a minute.
  const data = join(home, ".local/share/casemate");
  mkdirSync(join(data, "guest"), { recursive: true });
  symlinkSync(join(stateFolders(undefined).data, "guest/kernels"), join(data, "guest/kernels"));
  chmodSync(folder, 0o755);
  for (const path of [home, join(home, ".local"), join(home, ".local/share"), data, join(data, "guest")]) chownSync(path, nobody, nobody);
  const [file = "", ...args] = casemate.commandLine(["check", "--json"]).filter((word) => word !== "--root" && word !== casemate.folders.data);
  const { stdout } = await runAsNobody(file, args, { timeoutMs: 120_000, okExitCodes: [0, 1], env: { PATH: process.env["PATH"], HOME: home } });
  const report = JSON.parse(stdout.toString()) as Report; // printed by the command's check.ts
  assert.equal(report.canRun, true, stdout.toString());
  assert.deepEqual([named(report, "user").state, named(report, "user").code], ["degraded", "not_root"]);
  assert.match(named(report, "disk").detail, new RegExp(data));
  const accelerator = named(report, "accelerator");
  if (existsSync("/dev/kvm")) {
    // The mode of the device decides; where it is everybody's, it is tried as for root.
    const closed = await runAsNobody("test", ["-w", "/dev/kvm"], { okExitCodes: [0, 1] });
    if (closed.exitCode === 1) assert.deepEqual([accelerator.code, accelerator.fix], ["kvm_permission", "usermod -aG kvm $USER, then log in again"]);
    else assert.ok(["kvm_works", "kvm_silent", "kvm_slow", "kvm_failed"].includes(accelerator.code), accelerator.code);
  } else assert.equal(accelerator.code, "kvm_missing");
});

test("check --guest prints what is in the image and how large it is, as text and as JSON", async () => {
  const image = JSON.parse(await casemate.ok(["check", "--guest", "--json"])) as GuestImage; // printed by the command's check.ts
  assert.match(image.id, /^[0-9a-f]{32}$/);
  assert.ok(image.contents.some(({ path }) => path === "/usr/lib/casemate/agent.js"));
  const text = await casemate.ok(["check", "--guest"]);
  for (const word of [image.id, image.kernelRelease, image.kernelPath, image.initramfsPath, image.rootImagePath, "/usr/bin/node", "/usr/bin/crun"]) assert.ok(text.includes(word), word);
  assert.match(text, /^ *\d+(\.\d+)? ?[kMG]?i?B +\/usr\/bin\/node$/m);
});
