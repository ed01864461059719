// What runs tests in the lab guest, with scripts in QEMU's place that do what guests do.
// - a guest that ends or hangs, or in which a VM broke, is booted again, three times in all, and it is counted
// - results come through as the guest reports them; files without one are named
// - no guest is left, whatever happens
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { FileResult } from "../../scripts/test-runner/run-file.ts";
import { adoptOrphans, descendants } from "../../scripts/test-runner/descendants.ts";
import { stateFolders } from "../../src/host/store/paths.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { type LabLine, labFiles } from "../lab/report.ts";
import { type LabSummary, runInLab } from "../lab/run-in-lab.ts";
import { requires } from "../support/requires.ts";

const folder = mkdtempSync(join(tmpdir(), "casemate-lab-"));
const share = join(folder, "output");
const path = process.env["PATH"];
const skip = requires("root");
const files = ["test/lab/a.lab.test.ts", "test/lab/b.lab.test.ts"] as const;

before(() => {
  adoptOrphans();
  // A lab guest of somebody else holds the machine's lock: the scripts here need not wait for it.
  mkdirSync(join(folder, "guest"));
  symlinkSync(join(stateFolders(undefined).data, "guest/kernels"), join(folder, "guest/kernels"));
});
after(() => {
  process.env["PATH"] = path;
  rmSync(folder, { recursive: true, force: true });
});

const result = (file: string): LabLine => ({ type: "result", file, result: { title: file, outcomes: [], problems: [], seconds: 1, outputFile: join(share, "output.log") } });
const end: LabLine = { type: "end", vmCount: 3, vmSeconds: 40 };

/** A guest's part as shell commands: says these lines. */
function says(...lines: readonly LabLine[]): string {
  return lines.map((line) => `echo '${JSON.stringify(line)}' >>"${labFiles(share).report}"`).join("\n");
}

/** Runs both files with guests that do this: the first script at the first boot, and so on. */
async function runWith(boots: readonly string[], timeoutMs = 60_000): Promise<LabSummary & { readonly results: readonly string[]; readonly problems: readonly string[]; readonly orders: readonly string[] }> {
  const bin = mkdtempSync(join(folder, "bin-"));
  const cases = boots.map((script, index) => `${index + 1})\n${script}\n;;`).join("\n");
  writeFileSync(join(bin, "qemu-system-x86_64"), `#!/bin/sh\n[ "$1" != --version ] || { echo "QEMU emulator version 9.2.0"; exit; }\ncat "${labFiles(share).order}" >>"${bin}/orders"; echo >>"${bin}/orders"\ncase $(wc -l <"${bin}/orders") in\n${cases}\nesac\n`);
  chmodSync(join(bin, "qemu-system-x86_64"), 0o755);
  process.env["PATH"] = `${bin}:${path}`;
  mkdirSync(share, { recursive: true });
  const results: string[] = [];
  const problems: string[] = [];
  const summary = await runInLab({ root: folder, folders: stateFolders(folder), outputFolder: share, files, timeoutMs, onResult: ({ title }: FileResult) => results.push(title), onProblem: (text) => problems.push(text) });
  await eventually("the end of every guest", () => (descendants().length === 0 ? true : undefined), { timeoutMs: 2_000 });
  return { ...summary, results, problems, orders: readFileSync(join(bin, "orders"), "utf8").trim().split("\n") };
}

test("results, problems and the guest's count of VMs come through", { skip }, async () => {
  const { results, problems, failures, missing, boots, vmCount, vmSeconds } = await runWith([says({ type: "alive" }, { type: "problem", text: "no template" }, result(files[0]), result(files[1]), end)]);
  assert.deepEqual([results, problems, failures, missing, boots, vmCount, vmSeconds], [[...files], ["no template"], [], [], 1, 3, 40]);
});

test("a guest that ends early is booted again for what it left", { skip }, async () => {
  const { results, failures, missing, boots, orders } = await runWith([`${says(result(files[0]))}\necho panic >"${labFiles(share).console}"`, says(result(files[1]), end)]);
  assert.deepEqual([results, missing, boots], [[...files], [], 2]);
  assert.equal(failures.length, 1);
  assert.match(failures[0] ?? "", /ended before its tests did\npanic/);
  assert.deepEqual(orders.map((order) => (JSON.parse(order) as { files: string[] }).files), [[...files], [files[1]]]);
});

test("a third guest without a result is the last one, and the files are named", { skip }, async () => {
  const { failures, missing, boots, orders } = await runWith(["exit 1", "exit 1", "exit 1", says(result(files[0]), result(files[1]), end)]);
  assert.deepEqual([failures.length, missing, boots, orders.length], [3, [...files], 3, 3]);
});

test("a file that failed with a VM that broke is run by the next guest, and is a result in the last one; other failures are results at once", { skip }, async () => {
  const failing = (title: string): LabLine => ({ type: "result", file: files[0], result: { title, outcomes: [], problems: ["failed"], seconds: 1, outputFile: join(share, `${title}.log`) } });
  const broken = `echo 'casemate: create sandbox "x": the VM was reset: its kernel' >"${join(share, "broken.log")}"\n${says(failing("broken"), result(files[1]), end)}`;
  const again = await runWith([broken, says(result(files[0]), end)]);
  assert.deepEqual([again.results, again.failures.length, again.missing, again.boots], [[files[1], files[0]], 1, [], 2]);
  const brokenAgain = says(failing("broken"), end);
  const ever = await runWith([broken, brokenAgain, brokenAgain]);
  assert.deepEqual([ever.results, ever.failures.length, ever.missing, ever.boots], [[files[1], "broken"], 2, [], 3]);
  const evidence = join(share, "boot-1/quiet/containers/a");
  const quiet = await runWith([`mkdir -p ${evidence}; echo '{"status":"exited","error":"guest_reset"}' >${evidence}/status.json\n${says(failing("quiet"), result(files[1]), end)}`, says(result(files[0]), end)]);
  assert.deepEqual([quiet.results, quiet.failures.length, quiet.boots], [[files[1], files[0]], 1, 2]);
  const other = await runWith([says(failing("other"), result(files[1]), end)]);
  assert.deepEqual([other.results, other.failures.length, other.boots], [["other", files[1]], 0, 1]);
});

test("a guest that hangs is ended when the time is over", { skip }, async () => {
  const began = performance.now();
  const { failures, missing } = await runWith([`${says(result(files[0]))}\ntrap '' TERM\nwhile :; do sleep 1; done`], 2_000);
  assert.ok(performance.now() - began < 10_000);
  assert.match(failures[0] ?? "", /not done within 2 s/);
  assert.deepEqual(missing, [files[1]]);
});
