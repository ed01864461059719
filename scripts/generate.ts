// Regenerates src/shared/protocol/gen from proto/. With --check: fails when the committed code differs.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { runProcess } from "../src/shared/linux/run-process.ts";

const root = join(import.meta.dirname, "..");
const gen = "src/shared/protocol/gen";
/** buf starts in a second; its first start after an installation takes a few. */
const timeoutMs = 60_000;

async function generate(into: string): Promise<void> {
  rmSync(join(into, gen), { recursive: true, force: true });
  // buf finds its plugin, and the plugin its Node, by PATH.
  const env = { ...process.env, PATH: [join(root, "node_modules/.bin"), process.env["PATH"]].join(delimiter) };
  await runProcess(join(root, "node_modules/.bin/buf"), ["generate", "--output", into], { cwd: root, env, timeoutMs });
}

async function check(): Promise<void> {
  const fresh = mkdtempSync(join(tmpdir(), "casemate-gen-"));
  try {
    await generate(fresh);
    const { exitCode, stdout } = await runProcess("diff", ["-r", join(root, gen), join(fresh, gen)], { okExitCodes: [0, 1], timeoutMs });
    if (exitCode === 0) return;
    console.error(`${stdout.toString()}generated code differs from what is committed: run \`npm run generate\` and commit the result`);
    process.exitCode = 1;
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
}

await (process.argv.includes("--check") ? check() : generate(root));
