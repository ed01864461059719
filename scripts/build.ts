// Builds dist/: the command (split, so that each subcommand loads only what it needs), the owner, the
// library with its types, and the guest's agent as one file.
import { build, type BuildOptions } from "esbuild";
import { execFileSync } from "node:child_process";
import { existsSync, rmSync } from "node:fs";

const root = new URL("..", import.meta.url).pathname;
process.chdir(root);

const common: BuildOptions = {
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node24",
  outdir: "dist",
  // Whole names and lines: a stack trace of a user must be readable. Size does not matter here, evaluation does.
  minifySyntax: true,
  legalComments: "none",
  logLevel: "warning",
  metafile: false,
  // Bundled CommonJS packages (commander) call require for node's own modules.
  banner: { js: 'import { createRequire as casemateCreateRequire } from "node:module"; const require = casemateCreateRequire(import.meta.url);' },
};

const entries: Readonly<Record<string, string>> = { cli: "src/cli/main.ts", owner: "src/host/control/owner-main.ts", template: "src/host/containers/template-main.ts", index: "src/index.ts" };

rmSync("dist", { recursive: true, force: true });
const present = Object.fromEntries(Object.entries(entries).filter(([name, path]) => {
  if (!existsSync(path)) console.log(`build: ${name} skipped, there is no ${path}`);
  return existsSync(path);
}));
await build({ ...common, entryPoints: present, splitting: true, chunkNames: "chunks/[name]-[hash]" });
await build({ ...common, entryPoints: { agent: "src/guest/main.ts" }, sourcemap: false, banner: {} });
if ("index" in present) {
  execFileSync("node_modules/.bin/tsc", ["-p", "tsconfig.types.json"], { stdio: "inherit" });
}
