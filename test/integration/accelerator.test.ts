// Which accelerator is chosen, by trying: the real QEMU, and wrappers in its place that behave as broken hosts do.
// - silence, endless output without a boot, an early end, success: each has its reason, within its time
// - the answer is remembered until QEMU changes, that it ended at once for a while; what costs nothing to look at is looked at every time
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chooseAccelerator, type AcceleratorChoice, type ProbeOptions } from "../../src/host/hypervisor/qemu/accelerator.ts";
import { ensureGuestImage, type GuestImage } from "../../src/host/guest-image/guest-image.ts";
import { stateFolders, type StateFolders } from "../../src/host/store/paths.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { adoptOrphans, descendants } from "../../scripts/test-runner/descendants.ts";
import { runAsNobody } from "../support/ordinary-user.ts";
import { requires } from "../support/requires.ts";

const folder = mkdtempSync(join(tmpdir(), "casemate-accelerator-"));
const path = process.env["PATH"] ?? "";
let image: GuestImage;
let number = 0;

/** A device that anybody may open; the wrappers never look at it. */
const device = join(folder, "kvm");
/** The real limits; and short ones, for tests whose subject is not how long they are. */
const longLimits: ProbeOptions = { device, firstByteMs: 5_000, wholeMs: 60_000, failureHoldsMs: 60_000 };
const shortLimits: ProbeOptions = { ...longLimits, firstByteMs: 500, wholeMs: 1_000 };

before(async () => {
  adoptOrphans(); // what a wrapper leaves behind is then seen below us
  writeFileSync(device, "");
  image = await ensureGuestImage(stateFolders(undefined));
});

after(() => {
  process.env["PATH"] = path;
  rmSync(folder, { recursive: true, force: true });
});

/** State folders of a host that has not been tried yet. */
function newFolders(): StateFolders {
  const data = join(folder, `state${number++}`);
  mkdirSync(data);
  return stateFolders(data);
}

/** Puts a script in QEMU's place for the rest of the test, and returns a function that counts how often it was started. */
function replaceQemu(script: string): () => number {
  const bin = join(folder, `bin${number++}`);
  mkdirSync(bin);
  writeFileSync(join(bin, "qemu-system-x86_64"), `#!/bin/sh\necho started >> "${bin}/starts"\n${script}\n`);
  chmodSync(join(bin, "qemu-system-x86_64"), 0o755);
  process.env["PATH"] = `${bin}:${path}`;
  return () => (existsSync(join(bin, "starts")) ? readFileSync(join(bin, "starts"), "utf8").trim().split("\n").length : 0);
}

/** Chooses, and says how long that took. */
async function choose(folders: StateFolders, options?: ProbeOptions): Promise<AcceleratorChoice & { readonly tookMs: number }> {
  const began = performance.now();
  const choice = await chooseAccelerator(folders, image, undefined, options);
  return { ...choice, tookMs: performance.now() - began };
}

const untilNothingRuns = (): Promise<boolean> => eventually("the end of every try", () => (descendants().length === 0 ? true : undefined), { timeoutMs: 1_000 });

test("this host's real QEMU is tried within 10 s and leaves nothing running; the answer is remembered", async () => {
  process.env["PATH"] = path;
  const folders = newFolders();
  const choice = await choose(folders);
  assert.ok(choice.tookMs < 10_000, `took ${choice.tookMs} ms`);
  // A host whose KVM works says so; one whose KVM hangs is found out by its silence, one that QEMU cannot use by QEMU's end. Nothing else is right.
  assert.ok((existsSync("/dev/kvm") ? ["kvm kvm_works", "tcg kvm_silent", "tcg kvm_failed"] : ["tcg kvm_missing"]).includes(`${choice.accelerator} ${choice.reason}`), choice.explanation);
  await untilNothingRuns();
  const again = await choose(folders);
  assert.deepEqual({ ...again, tookMs: 0 }, { ...choice, tookMs: 0 });
  assert.ok(again.tookMs < 1_000);
});

test("a QEMU that hangs in silence costs at most 10 s and ends in emulation", async () => {
  const starts = replaceQemu("trap '' TERM; sleep 600 & wait");
  const folders = newFolders();
  const choice = await choose(folders, longLimits);
  assert.deepEqual([choice.accelerator, choice.reason], ["tcg", "kvm_silent"]);
  assert.ok(choice.tookMs < 10_000, `took ${choice.tookMs} ms`);
  assert.match(choice.explanation, /prints nothing within 5 s/);
  await untilNothingRuns();
  await choose(folders, longLimits);
  assert.equal(starts(), 1, "remembered");
});

test("a guest that prints and never comes up is given the whole time, then it is slow", async () => {
  replaceQemu("while :; do echo booting; sleep 0.05; done");
  const choice = await choose(newFolders(), shortLimits);
  assert.deepEqual([choice.accelerator, choice.reason], ["tcg", "kvm_slow"]);
  assert.ok(choice.tookMs >= shortLimits.wholeMs && choice.tookMs < shortLimits.wholeMs + 2_000, `took ${choice.tookMs} ms`);
  await untilNothingRuns();
});

test("a flood of output without the marker is no boot either", async () => {
  replaceQemu("exec yes casemate-probe");
  assert.equal((await choose(newFolders(), shortLimits)).reason, "kvm_slow");
});

test("a guest that says it is up means KVM works, even if the words come in pieces", async () => {
  const starts = replaceQemu("printf 'boot casemate-'; sleep 0.2; printf 'probe: up\\n'; sleep 600");
  const folders = newFolders();
  const choice = await choose(folders, shortLimits);
  assert.deepEqual([choice.accelerator, choice.reason], ["kvm", "kvm_works"]);
  await choose(folders, shortLimits);
  assert.equal(starts(), 1, "remembered");
});

test("a QEMU that ends at once is told with its message, remembered for a while and then tried again", async () => {
  const starts = replaceQemu("echo 'Could not access KVM kernel module: No such device' >&2; exit 1");
  const folders = newFolders();
  const choice = await choose(folders, shortLimits);
  assert.deepEqual([choice.accelerator, choice.reason], ["tcg", "kvm_failed"]);
  assert.match(choice.explanation, /exit code 1\): Could not access KVM/);
  assert.deepEqual({ ...await choose(folders, shortLimits), tookMs: 0 }, { ...choice, tookMs: 0 });
  assert.equal(starts(), 1, "remembered");
  const failedAt = new Date(Date.now() - shortLimits.failureHoldsMs - 1_000);
  utimesSync(join(folders.data, "accelerator.json"), failedAt, failedAt);
  await choose(folders, shortLimits);
  assert.equal(starts(), 2, "the reason may have passed");
});

test("the answer is void when QEMU's file changes", async () => {
  const folders = newFolders();
  const first = replaceQemu("echo 'casemate-probe: up'; sleep 600");
  assert.equal((await choose(folders, shortLimits)).reason, "kvm_works");
  const second = replaceQemu("sleep 600 # another file");
  assert.equal((await choose(folders, shortLimits)).reason, "kvm_silent");
  assert.deepEqual([first(), second()], [1, 1]);
});

test("an answer that cannot be read is no answer", async () => {
  const folders = newFolders();
  replaceQemu("echo 'casemate-probe: up'; sleep 600");
  for (const text of ["", "{", "{\"version\": 99}"]) {
    writeFileSync(join(folders.data, "accelerator.json"), text);
    assert.equal((await choose(folders, shortLimits)).reason, "kvm_works", text);
  }
});

test("without permission on the device nothing is tried, and the message says what to do", { skip: requires("root") }, async () => {
  const starts = replaceQemu("echo 'casemate-probe: up'; sleep 600");
  const folders = newFolders();
  chmodSync(folder, 0o755);
  chmodSync(folders.data, 0o777);
  chmodSync(device, 0o600);
  assert.equal((await choose(folders, shortLimits)).reason, "kvm_works");
  const script = [
    `import { chooseAccelerator } from ${JSON.stringify(join(import.meta.dirname, "../../src/host/hypervisor/qemu/accelerator.ts"))};`,
    `const choice = await chooseAccelerator(${JSON.stringify(folders)}, ${JSON.stringify({ kernelPath: image.kernelPath, initramfsPath: image.initramfsPath })}, undefined, ${JSON.stringify(shortLimits)});`,
    "process.stdout.write(JSON.stringify(choice));",
  ].join("\n");
  const { stdout } = await runAsNobody(process.execPath, ["--input-type=module", "-e", script], { timeoutMs: 10_000 });
  const choice = JSON.parse(stdout.toString()) as AcceleratorChoice; // printed by the script above
  assert.deepEqual([choice.accelerator, choice.reason], ["tcg", "kvm_permission"]);
  assert.match(choice.explanation, /usermod -aG kvm/);
  assert.equal(starts(), 1, "only by root");
  // Root's answer is still there: a user who may not is no news of the host.
  assert.equal((await choose(folders, shortLimits)).reason, "kvm_works");
  assert.equal(starts(), 1);
});

test("without the device nothing is tried", async () => {
  const starts = replaceQemu("sleep 600");
  const choice = await choose(newFolders(), { ...shortLimits, device: join(folder, "no-kvm") });
  assert.deepEqual([choice.accelerator, choice.reason, starts()], ["tcg", "kvm_missing", 0]);
});

test("without QEMU the error says what to install", async () => {
  process.env["PATH"] = join(folder, "nothing");
  await assert.rejects(choose(newFolders()), (error) => RuntimeError.is(error, "not_found") && error.reason === "tool_missing");
});
