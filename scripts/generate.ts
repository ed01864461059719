// Regenerates src/shared/protocol/gen from proto/. With --check: fails when the committed code differs.
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = new URL("..", import.meta.url).pathname;
const gen = "src/shared/protocol/gen";
const check = process.argv.includes("--check");
const before = mkdtempSync(join(tmpdir(), "casemate-gen-"));
try {
  if (check) cpSync(join(root, gen), before, { recursive: true });
  rmSync(join(root, gen), { recursive: true, force: true });
  execFileSync("node_modules/.bin/buf", ["generate"], { cwd: root, stdio: "inherit", env: { ...process.env, PATH: `${root}node_modules/.bin:${process.env["PATH"]}` } });
  if (check) {
    try {
      execFileSync("diff", ["-r", before, gen], { cwd: root, stdio: "inherit" });
    } catch {
      console.error("generated code differs from what is committed: run `npm run generate` and commit the result");
      process.exitCode = 1;
    }
  }
} finally {
  rmSync(before, { recursive: true, force: true });
}
