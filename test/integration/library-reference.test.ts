// The library's reference can be made: every symbol that another one names is in it, and every link leads
// somewhere (typedoc.json makes warnings errors).
import { join } from "node:path";
import { test } from "node:test";
import { runProcess } from "../../src/shared/linux/run-process.ts";

const root = join(import.meta.dirname, "../..");
/** Half a minute on two busy cores. */
const timeoutMs = 5 * 60_000;

test("typedoc makes the reference without a warning", async () => {
  await runProcess(process.execPath, [join(root, "node_modules/typedoc/bin/typedoc"), "--emit", "none", "--logLevel", "Warn"], { cwd: root, timeoutMs });
});
