// The library's reference:
// - it can be made: every symbol that another one names is in it, and every link leads somewhere
//   (typedoc.json makes warnings errors)
// - every exported symbol, and every method of a class, has an example
// - every example, and every block of docs/library.md, is a program that the compiler accepts
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { runProcess } from "../../src/shared/linux/run-process.ts";

const root = join(import.meta.dirname, "../..");
/** Half a minute on two busy cores. */
const timeoutMs = 5 * 60_000;
mkdirSync(join(root, "test-output"), { recursive: true });
// Below the checkout: the examples import what its node_modules have.
const folder = mkdtempSync(join(root, "test-output/reference-"));
after(() => rmSync(folder, { recursive: true }));

/** What typedoc writes as JSON, as far as it is looked at here. */
interface Reflection {
  readonly name: string;
  readonly kind: number;
  readonly comment?: Comment;
  readonly signatures?: readonly { readonly comment?: Comment }[];
  readonly children?: readonly Reflection[];
  readonly inheritedFrom?: object;
}
interface Comment { readonly blockTags?: readonly { readonly tag: string; readonly content: readonly { readonly text: string }[] }[] }

const methodKind = 2048;
let exported: readonly Reflection[];

before(async () => {
  const path = join(folder, "api.json");
  await runProcess(process.execPath, [join(root, "node_modules/typedoc/bin/typedoc"), "--json", path, "--logLevel", "Warn"], { cwd: root, timeoutMs });
  exported = (JSON.parse(readFileSync(path, "utf8")) as Reflection).children ?? []; // typedoc's own format
}, { timeout: timeoutMs });

/** The symbols that must have an example: what is exported, and its own methods but those that `using` calls. */
function symbols(): { readonly name: string; readonly examples: readonly string[] }[] {
  return exported.flatMap((one) => [
    { name: one.name, examples: examplesOf(one) },
    ...(one.children ?? []).filter(({ kind, name, inheritedFrom }) => kind === methodKind && !name.startsWith("[") && inheritedFrom === undefined).map((method) => ({ name: `${one.name}.${method.name}`, examples: examplesOf(method) })),
  ]);
}

function examplesOf({ comment, signatures = [] }: Reflection): string[] {
  return [comment, ...signatures.map((one) => one.comment)].flatMap((one) => one?.blockTags ?? []).filter(({ tag }) => tag === "@example").map(({ content }) => content.map(({ text }) => text).join("").replace(/^```\w*\n|\n?```$/g, ""));
}

test("every exported symbol and method has an example", () => {
  assert.ok(exported.some(({ name }) => name === "Sandbox"));
  assert.deepEqual(symbols().filter(({ examples }) => examples.length === 0).map(({ name }) => name), []);
});

test("every example is a program that the compiler accepts", async () => {
  const guide = [...readFileSync(join(root, "docs/library.md"), "utf8").matchAll(/```ts\n([^]*?)```/g)].map(([, text = ""]) => text);
  const examples = [...symbols(), { name: "docs/library.md", examples: guide }].flatMap(({ name, examples: texts }) => texts.map((text) => ({ name, text })));
  for (const [index, { name, text }] of examples.entries()) {
    const imports = text.split("\n").filter((line) => line.startsWith("import ") && !line.includes("\"casemate\""));
    const body = text.split("\n").filter((line) => !line.startsWith("import "));
    // What an example does not make itself is there.
    const given = [["sandbox", "Sandbox"], ["process", "SandboxProcess"], ["shell", "SandboxProcess"]].filter(([variable = ""]) => !new RegExp(`(const|using) (\\{[^}]*)?${variable}\\b`).test(text) && new RegExp(`\\b${variable}\\.`).test(text));
    writeFileSync(join(folder, `example-${index}.ts`), [
      `// ${name}`, ...imports, "import * as casemate from \"../../src/index.ts\";",
      `import type { ${exported.filter(({ kind }) => kind !== 128).map(({ name: type }) => type).join(", ")} } from "../../src/index.ts";`,
      `const { ${exported.filter(({ kind }) => kind === 128).map(({ name: value }) => value).join(", ")} } = casemate;`,
      `export async function example(${given.map(([variable = "", type = ""]) => `${variable}: casemate.${type}`).join(", ")}): Promise<void> {`, ...body, "}", "",
    ].join("\n"));
  }
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ extends: "../../tsconfig.json", compilerOptions: { noUnusedLocals: false, noUnusedParameters: false, incremental: false, tsBuildInfoFile: null, typeRoots: ["../../node_modules/@types"] }, include: ["example-*.ts"] }));
  const { stdout } = await runProcess(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder], { timeoutMs, okExitCodes: [0, 1, 2] });
  assert.equal(stdout.toString(), "");
});
