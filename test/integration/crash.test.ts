// Owners are killed while containers live in a real VM (npm run crash-test does it longer).
// - create, start, 3 execs with numbered output, update, pause, resume, stop, delete; a kill in each
// - at writes to the store and at random moments, with the supervisor in half of them
// - every byte and exit code is compared, and nothing is left; a lost byte and a changed code are noticed
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";
import { prepareHost } from "../../src/host/containers/prepare-host.ts";
import type { HostSetup } from "../../src/host/containers/start-container.ts";
import { stateFolders, type StateFolders } from "../../src/host/store/paths.ts";
import { crashTest, formatReport, isClean } from "../crash/crash-test.ts";
import { shareGuest } from "../support/cli.ts";
import { keepEvidence } from "../support/evidence.ts";
import { watchHost, type HostWatch } from "../support/host-clean.ts";
import { endTemplateWork } from "../support/templates.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
/** 1.4 MB from each exec: enough to be killed in the middle of. */
const lines = 220_000;
let root: string;
let folders: StateFolders;
let setup: HostSetup;
let watch: HostWatch;

before(async () => {
  if (skip !== false) return;
  watch = watchHost();
  root = mkdtempSync("/tmp/cm-");
  chmodSync(root, 0o711);
  shareGuest(root);
  folders = stateFolders(root);
  ({ setup } = await prepareHost(folders, { debug: false, coldBoot: false, onProgress: () => undefined }));
});

afterEach((context) => {
  if ("passed" in context && context.passed === false) keepEvidence(folders, context.name);
});

after(async () => {
  if (skip !== false) return;
  await endTemplateWork(folders);
  rmSync(root, { recursive: true, force: true });
  await watch.assertHostClean();
});

test("owners that are killed in every state lose, double and leave nothing", { skip }, async () => {
  const report = await crashTest(setup, { seed: 20, kills: 13, lines });
  console.log(formatReport(report));
  assert.ok(isClean(report));
  assert.ok(report.comparedBytes > 3 * lines * 6);
});

test("the comparison notices a lost byte and a changed exit code", { skip }, async () => {
  const report = await crashTest(setup, { seed: 21, kills: 1, lines: 20_000, sabotage: true });
  assert.deepEqual([report.lostBytes > 0, report.wrongExitCodes, report.leaked], [true, 1, []]);
});
