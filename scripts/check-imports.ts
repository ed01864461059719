// Enforces scripts/imports.json: which folder may import which.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import ts from "typescript";

/** The content of scripts/imports.json. */
export interface ImportTable {
  /** Folder or file to what it may import beside its own. */
  readonly may: Readonly<Record<string, readonly string[]>>;
  /** The same for test files. */
  readonly tests: Readonly<Record<string, readonly string[]>>;
  /** Targets that only the named importers, and the target's own files and tests, may import. */
  readonly only: readonly { readonly target: string; readonly importers: readonly string[]; readonly why: string }[];
  /** Packages from npm that may be imported at all. */
  readonly packages: readonly string[];
}

/** One import as written. */
interface Import {
  readonly from: string;
  /** A path from the package's folder, or the name of a module. */
  readonly target: string;
  /** Erased before the program runs. */
  readonly typeOnly: boolean;
}

/** What is wrong with the imports of these files: one line each, empty when nothing is. */
export function importProblems(files: readonly { readonly path: string; readonly text: string }[], table: ImportTable): string[] {
  return files.flatMap(({ path, text }) => importsOf(path, text).flatMap((one) => problemOf(one, table)));
}

/** Checks every source file below the package's folder. */
export function checkImports(root: string): string[] {
  // Written by us, beside this file; a wrong shape shows at once as every import being refused.
  const table = JSON.parse(readFileSync(join(root, "scripts/imports.json"), "utf8")) as ImportTable;
  return importProblems(sourceFiles(root).map((path) => ({ path, text: readFileSync(join(root, path), "utf8") })), table);
}

/** Our TypeScript files, relative to the package's folder; generated ones are not ours to judge. */
export function sourceFiles(root: string): string[] {
  return ["src", "scripts", "test", "bench", "examples"].filter((folder) => existsSync(join(root, folder))).flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).map((name) => `${folder}/${name}`))
    .filter((path) => path.endsWith(".ts") && !path.includes("/gen/"));
}

function importsOf(path: string, text: string): Import[] {
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, false);
  const found: Import[] = [];
  const add = (specifier: ts.Expression | undefined, typeOnly: boolean): void => {
    if (specifier === undefined || !ts.isStringLiteral(specifier)) return;
    const target = specifier.text.startsWith(".") ? normalize(join(dirname(path), specifier.text)) : specifier.text;
    found.push({ from: path, target, typeOnly });
  };
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) add(node.moduleSpecifier, isTypeOnly(node.importClause));
    else if (ts.isExportDeclaration(node)) add(node.moduleSpecifier, node.isTypeOnly);
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) add(node.arguments[0], false);
    else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument) && ts.isStringLiteral(node.argument.literal)) add(node.argument.literal, true);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

function isTypeOnly(clause: ts.ImportClause | undefined): boolean {
  if (clause === undefined) return false;
  if (clause.phaseModifier === ts.SyntaxKind.TypeKeyword) return true;
  const { namedBindings } = clause;
  return clause.name === undefined && namedBindings !== undefined && ts.isNamedImports(namedBindings) && namedBindings.elements.every((element) => element.isTypeOnly);
}

function problemOf(one: Import, table: ImportTable): string[] {
  const { from, target, typeOnly } = one;
  const isTest = /\.test\.ts$|^test\//.test(from);
  const restriction = table.only.find((entry) => isWithin(target, entry.target));
  // A type costs nothing at run time, but the names of our own drivers stay with assemble.ts all the same.
  if (restriction !== undefined && !isTest && !(typeOnly && !target.startsWith("src/"))
    && ![restriction.target, ...restriction.importers].some((allowed) => isWithin(from, allowed))) {
    return [`${from} imports ${target}: ${restriction.why}`];
  }
  if (!isOurs(target)) return isKnownModule(target, table) ? [] : [`${from} imports ${target}: not one of the packages we depend on`];
  const rules = isTest ? table.tests : table.may;
  const own = longestEntry(from, Object.keys(rules));
  if (own === undefined) return [`${from}: no entry in scripts/imports.json holds this file`];
  return [own, ...rules[own] ?? []].some((allowed) => isWithin(target, allowed)) ? [] : [`${from} imports ${target}: ${own} may not import that`];
}

function isKnownModule(target: string, table: ImportTable): boolean {
  return target.startsWith("node:") || table.packages.some((name) => isWithin(target, name));
}

function isOurs(target: string): boolean {
  return /^(src|scripts|test|bench|examples)\//.test(target);
}

function isWithin(path: string, folder: string): boolean {
  return path === folder || path.startsWith(`${folder}/`);
}

function longestEntry(path: string, entries: readonly string[]): string | undefined {
  return entries.filter((entry) => isWithin(path, entry)).sort((a, b) => b.length - a.length)[0];
}
