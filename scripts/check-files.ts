// Rules about files that no compiler checks: names, unfinished work, words that say nothing to a user.
import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";

/** Files to look at, with their text. */
export interface TextFile {
  readonly path: string;
  readonly text: string;
}

/** A name says what is in a file; these say nothing. */
const emptyNames = /^(utils?|helpers?|common|types|misc)(\.test)?\.ts$/;

/** Words that must not get into the repository, with what to do instead. Spelled apart, so that this file does not report itself. */
const forbidden: readonly { readonly pattern: RegExp; readonly why: string }[] = [
  { pattern: new RegExp(`\\b(${["TO" + "DO", "FIX" + "ME", "XX" + "X"].join("|")})\\b`), why: "finish it or file it" },
  { pattern: new RegExp(`(^|[\\s"'\`(=])/${"work"}/\\w`), why: "a path of one machine" },
  { pattern: new RegExp(`(^|[\\s"'\`(=])/(${"home"}|Users)/[a-z]\\w*/`), why: "a path of one machine" },
  { pattern: new RegExp(`\\b(test|it|describe|suite)\\.(${"skip"}|${"only"})\\(`), why: "use requires(), or run one file by its name" },
];

/** Problems of names and texts, one line each. */
export function fileProblems(files: readonly TextFile[]): string[] {
  return files.flatMap(({ path, text }) => [
    ...(emptyNames.test(basename(path)) ? [`${path}: name the file after its subject`] : []),
    ...text.split("\n").flatMap((line, index) => forbidden
      .filter(({ pattern }) => pattern.test(line))
      .map(({ why }) => `${path}:${index + 1}: ${line.trim().slice(0, 80)}: ${why}`)),
  ]);
}

/** Links in Markdown to files that do not exist. */
export function brokenLinks(root: string, files: readonly TextFile[]): string[] {
  return files.filter(({ path }) => path.endsWith(".md")).flatMap(({ path, text }) =>
    [...text.matchAll(/\]\(([^)\s#]+)(#[^)]*)?\)/g)]
      .map((match) => match[1] ?? "")
      .filter((target) => !/^[a-z]+:/.test(target) && !existsSync(join(root, dirname(path), target)))
      .map((target) => `${path}: links to ${target}, which does not exist`));
}

/**
 * Documents that comments and messages name but that do not exist: `docs/files.md`, or a decision by
 * its number, `docs/adr/0002`. Addresses of other sites are no documents of ours.
 */
export function missingDocuments(files: readonly TextFile[], documents: readonly string[]): string[] {
  const exists = (name: string): boolean => documents.some((path) => path === name || (/^docs\/adr\/\d{4}$/.test(name) && path.startsWith(`${name}-`)));
  return files.filter(({ path }) => !path.endsWith(".test.ts")).flatMap(({ path, text }) =>
    [...text.matchAll(/(?<![\w/.])docs\/(?:[\w/-]+\.(?:md|svg)|adr\/\d{4}(?![\w-]))/g)]
      .map(([name]) => name)
      .filter((name) => !exists(name))
      .map((name) => `${path}: names ${name}, which does not exist`));
}

/** Reasons that the code gives errors but docs/errors.md does not explain. A union of words is a type, not an error. */
export function undocumentedReasons(files: readonly TextFile[], errorsPage: string): string[] {
  const used = new Map<string, string>();
  for (const { path, text } of files) {
    if (!path.startsWith("src/") || path.endsWith(".test.ts")) continue;
    for (const match of text.matchAll(/\breason: "([a-z0-9_]+)"(?! \|)/g)) used.set(match[1] ?? "", path);
  }
  return [...used].filter(([reason]) => !errorsPage.includes(`\`${reason}\``)).map(([reason, path]) => `${path}: reason "${reason}" is not in docs/errors.md`);
}

/** Runs all of it over the files that git knows or would add. */
export function checkFiles(root: string, paths: readonly string[]): string[] {
  const files = paths
    .filter((path) => /\.(ts|md|sh|json|proto|txt)$|^bin\//.test(path) && path !== "package-lock.json" && !path.includes("/gen/"))
    .filter((path) => existsSync(join(root, path)))
    .map((path) => ({ path, text: readFileSync(join(root, path), "utf8") }));
  const documents = paths.filter((path) => path.startsWith("docs/") && existsSync(join(root, path)));
  return [...fileProblems(files), ...brokenLinks(root, files), ...missingDocuments(files, documents), ...undocumentedReasons(files, readFileSync(join(root, "docs/errors.md"), "utf8"))];
}
