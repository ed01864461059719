// Builds dist/: the command (of which each subcommand evaluates only what it needs), the owner, the
// library with its types, and the guest's agent as one file.
import { createHash } from "node:crypto";
import { build, type BuildOptions, type Plugin, type PluginBuild } from "esbuild";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { isBuiltin } from "node:module";

const root = new URL("..", import.meta.url).pathname;
process.chdir(root);

/** Modules of Node's that are loaded by the first call of one of their functions: node:crypto and node:fs/promises take 4 ms each, which short commands and starting owners do without or have time for later. */
const loadedByCall = ["node:crypto", "node:fs/promises", "node:zlib"];

/** What a bundle has in the place of an import from a module of Node's. */
async function builtinExports(path: string): Promise<string> {
  const module = `process.getBuiltinModule(${JSON.stringify(path)})`;
  const exported = await import(path) as Readonly<Record<string, unknown>>;
  const names = Object.keys(exported).filter((name) => name !== "default");
  if (loadedByCall.includes(path)) return names.filter((name) => /^[a-z]/.test(name) && typeof exported[name] === "function").map((name) => `export const ${name} = (...args) => ${module}.${name}(...args);`).join("\n");
  // The calls marked as pure are left out where nobody uses their result, and with them the getters that load more.
  return [`const builtin = ${module}; export default builtin;`, ...names.filter((name) => /^[A-Za-z_]\w*$/.test(name)).map((name) => `export const ${name} = /* @__PURE__ */ (() => builtin.${name})();`)].join("\n");
}

/**
 * Node's own modules by process.getBuiltinModule. An import statement copies every export of such a
 * module, and for node:fs and others that loads half of Node's streams: 5 ms of a short command's 20.
 * commander would load node:child_process (another 4 ms) for subcommands that are programs of their own, which we have none of.
 */
const leanBuiltins: Plugin = {
  name: "lean-builtins",
  setup(bundler: PluginBuild) {
    bundler.onResolve({ filter: /^(node:)?[a-z_/]+$/ }, ({ path, importer }) => {
      if (!isBuiltin(path)) return undefined;
      const unused = /\/commander\//.test(importer) && path.endsWith("child_process");
      return { path, namespace: unused ? "unused" : "builtin", sideEffects: false };
    });
    bundler.onLoad({ filter: /^/, namespace: "builtin" }, async ({ path }) => ({ contents: await builtinExports(path) }));
    bundler.onLoad({ filter: /^/, namespace: "unused" }, () => ({ contents: "module.exports = {};" }));
  },
};

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
  plugins: [leanBuiltins],
};

/** Programs that people wait for. */
const programs: Readonly<Record<string, string>> = { cli: "src/cli/main.ts", owner: "src/host/control/owner-main.ts" };
const entries: Readonly<Record<string, string>> = { template: "src/host/containers/template-main.ts", restart: "src/host/containers/restart-main.ts", index: "src/index.ts" };

/** In the place of the global `performance`, whose first use loads node:perf_hooks: 2 ms. */
const clock = "const clock = { timeOrigin: Date.now() - process.uptime() * 1e3, now: () => process.uptime() * 1e3 };";

/** A bundle as one expression, a function of its URL that src/host/config/start-program.ts calls, and that file as the program's entry. */
async function buildProgram(name: string, path: string): Promise<void> {
  const bundle = `dist/${name}.program.js`;
  await build({ ...common, entryPoints: { [`${name}.program`]: path }, banner: { js: `(async (programUrl) => { "use strict"; ${clock}` }, footer: { js: "})" }, define: { "import.meta.url": "programUrl", performance: "clock" } });
  const text = readFileSync(bundle, "latin1");
  if (/^(import|export) |[^\0-\x7f]/m.test(text)) throw new Error(`${bundle}: has an import, an export or a character that is not ASCII, and so is no expression that can be read as Latin-1`);
  const programHash = createHash("sha256").update(text).digest("hex").slice(0, 16);
  await build({ ...common, entryPoints: { [name]: "src/host/config/start-program.ts" }, format: "cjs", outExtension: { ".js": ".cjs" }, define: { programHash: JSON.stringify(programHash) } });
}

rmSync("dist", { recursive: true, force: true });
const present = Object.fromEntries(Object.entries(entries).filter(([name, path]) => {
  if (!existsSync(path)) console.log(`build: ${name} skipped, there is no ${path}`);
  return existsSync(path);
}));
// A file each, whose parts are evaluated when they are first asked for: finding and linking the chunks of a split program took a third of its start.
await build({ ...common, entryPoints: present });
for (const [name, path] of Object.entries(programs)) await buildProgram(name, path);
await build({ ...common, entryPoints: { agent: "src/guest/main.ts" }, sourcemap: false });
if ("index" in present) {
  execFileSync("node_modules/.bin/tsc", ["-p", "tsconfig.types.json"], { stdio: "inherit" });
}
