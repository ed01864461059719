import assert from "node:assert/strict";
import { test } from "node:test";
import type { TestOutcome } from "./event-reporter.ts";
import { outputName, parseRunRequest } from "./plan.ts";
import { skipProblems } from "./skips.ts";
import { isVm } from "./vm-count.ts";

test("parseRunRequest() tells suites from filters", () => {
  assert.deepEqual(parseRunRequest([]), { only: undefined, filters: [] });
  assert.deepEqual(parseRunRequest(["--only", "unit", "ledger"]), { only: "unit", filters: ["ledger"] });
  assert.deepEqual(parseRunRequest(["exec", "--only=e2e"]), { only: "e2e", filters: ["exec"] });
  assert.throws(() => parseRunRequest(["--only", "everything"]), /must be one of check, unit/);
  assert.throws(() => parseRunRequest(["--onyl", "unit"]), /unknown option/);
});

test("outputName() gives every test file a folder of its own", () => {
  assert.equal(outputName("test/e2e/run.test.ts"), "e2e-run");
  assert.equal(outputName("test/integration/network/passt.test.ts"), "integration-network-passt");
});

const skipped = (reason: string): TestOutcome => ({ name: "boots", file: "/anywhere/test/e2e/kvm.test.ts", outcome: "skipped", reason });
const allowed = [{ file: "test/e2e/kvm.test.ts", requirement: "kvm", why: "the machine has none" }];

test("skipProblems() accepts only listed requirements in continuous integration", () => {
  assert.deepEqual(skipProblems([skipped("requires kvm: no /dev/kvm")], allowed, true), []);
  assert.match(skipProblems([skipped("requires kvm: no /dev/kvm")], [], true).join(), /not in test\/allowed-skips.json/);
  assert.match(skipProblems([skipped("requires root: uid 1000")], allowed, true).join(), /not in test\/allowed-skips.json/);
  assert.deepEqual(skipProblems([skipped("requires root: uid 1000")], [], false), []);
});

test("skipProblems() refuses skips and todos made by hand everywhere", () => {
  assert.match(skipProblems([skipped("flaky")], allowed, false).join(), /without requires\(\)/);
  assert.match(skipProblems([{ name: "x", file: "", outcome: "todo", reason: "" }], [], false).join(), /todo/);
});

test("isVm() knows a running machine from other uses of QEMU's name", () => {
  assert.ok(isVm("/usr/bin/qemu-system-x86_64 -nodefaults -machine q35 -m 256"));
  assert.ok(isVm("qemu-system-x86_64 -accel tcg -incoming defer"));
  assert.ok(!isVm("qemu-system-x86_64 --version"));
  assert.ok(!isVm("sh -c qemu-system-x86_64 -machine q35"));
});
