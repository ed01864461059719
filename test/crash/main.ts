// npm run crash-test -- [--seed N] [--kills K] [--lines L] [--self-test]: kills owners and compares what their containers did.
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { parseArgs } from "node:util";
import { prepareHost } from "../../src/host/containers/prepare-host.ts";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import { stateFolders } from "../../src/host/store/paths.ts";
import { describeError } from "../../src/shared/base/errors.ts";
import { shareGuest } from "../support/cli.ts";
import { keepEvidence } from "../support/evidence.ts";
import { watchHost } from "../support/host-clean.ts";
import { endTemplateWork } from "../support/templates.ts";
import { crashTest, formatReport, isClean, type CrashReport } from "./crash-test.ts";

const { values } = parseArgs({ options: { seed: { type: "string", default: "1" }, kills: { type: "string", default: "50" }, lines: { type: "string", default: "1500000" }, "self-test": { type: "boolean", default: false } } });

async function main(): Promise<number> {
  await ensureGuestImage(stateFolders(undefined)); // the machine's own, which stays
  const watch = watchHost();
  const root = mkdtempSync("/tmp/cm-");
  chmodSync(root, 0o711);
  shareGuest(root);
  const folders = stateFolders(root);
  const sabotage = values["self-test"];
  let report: CrashReport;
  try {
    const { setup } = await prepareHost(folders, { debug: false, coldBoot: false, onProgress: () => undefined });
    console.log(`seed ${values.seed}`);
    report = await crashTest(setup, { seed: Number(values.seed), kills: Number(values.kills), lines: Number(values.lines), sabotage, onProgress: (line) => console.log(line) });
  } catch (error) {
    console.log(`FAILED: ${describeError(error)}`);
    keepEvidence(folders, `crash-test-${values.seed}`);
    return 1;
  } finally {
    await endTemplateWork(folders);
  }
  if (!isClean(report) && !sabotage) keepEvidence(folders, `crash-test-${values.seed}`);
  process.stdout.write(formatReport(report));
  rmSync(root, { recursive: true, force: true });
  await watch.assertHostClean();
  if (!sabotage) return isClean(report) ? 0 : 1;
  const noticed = report.lostBytes > 0 && report.wrongExitCodes === 1;
  console.log(noticed ? "self-test: the dropped byte and the changed exit code were both noticed" : "self-test FAILED: the dropped byte or the changed exit code was not noticed");
  return noticed ? 0 : 1;
}

process.exit(await main());
