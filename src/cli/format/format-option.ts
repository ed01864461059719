import { RuntimeError } from "../../shared/base/errors.ts";
import { formatJsonLines, formatTable } from "./table.ts";

/** The option's line in the help. */
export const formatHelp = "\"json\", \"table\", or a template such as '{{.Names}}'";

/** What `--format` asks for. */
export type Format =
  | { readonly type: "json" }
  | { readonly type: "table"; readonly template: Template | undefined }
  | { readonly type: "template"; readonly template: Template };

/** docker's templates, as far as scripts use them: text with fields in braces, `{{.Names}}`, `{{.State.Status}}`, `{{index .Config.Labels "a"}}`, `{{json .Mounts}}`. */
interface Template {
  readonly text: string;
  readonly pieces: readonly (string | Field)[];
}

interface Field {
  /** Names of fields from the outermost in; none: the object itself. */
  readonly path: readonly string[];
  readonly asJson: boolean;
}

/** Parses the option's value. @throws RuntimeError `invalid_argument` (reason `bad_format`). */
export function parseFormat(text: string): Format {
  if (text === "json" || text === "table") return text === "json" ? { type: "json" } : { type: "table", template: undefined };
  if (!text.includes("{{")) throw badFormat(text, "is neither \"json\" nor \"table\" nor a template");
  const table = /^table\s+/.exec(text)?.[0];
  return table === undefined ? { type: "template", template: parseTemplate(text) } : { type: "table", template: parseTemplate(text.slice(table.length)) };
}

/** A list in that format: a line for each row, or the table the command has by default. */
export function formatRows(rows: readonly object[], format: Format, defaultTable: () => string): string {
  if (format.type === "json") return formatJsonLines(rows);
  const { template } = format;
  if (template === undefined) return defaultTable();
  if (format.type === "template") return rows.map((row) => `${fill(template, row)}\n`).join("");
  const header = template.pieces.map((piece) => (typeof piece === "string" ? piece : (piece.path.at(-1) ?? "").toUpperCase())).join("");
  return formatTable(header.split("\t"), rows.map((row) => fill(template, row).split("\t")));
}

/** Objects in that format: all as one JSON array, or a line for each. */
export function formatObjects(objects: readonly object[], format: Format): string {
  if (format.type === "table") throw badFormat("table", "whole objects make no table");
  return format.type === "template" ? objects.map((object) => `${fill(format.template, object)}\n`).join("") : `${JSON.stringify(objects, undefined, 4)}\n`;
}

function parseTemplate(text: string): Template {
  // A shell passes \t and \n on as two characters each.
  const unescaped = text.replaceAll("\\t", "\t").replaceAll("\\n", "\n");
  const pieces = unescaped.split(/(\{\{.*?\}\})/s).filter((piece) => piece !== "").map((piece) => (piece.startsWith("{{") ? parseField(piece.slice(2, -2).trim(), text) : piece));
  return { text, pieces };
}

function parseField(expression: string, text: string): Field {
  const [, json, bare, indexed, keys = ""] = /^(json\s+)?(?:\.([\w.]*)|\(?index\s+\.([\w.]*)((?:\s+(?:"[^"]*"|\d+))+)\)?)$/.exec(expression) ?? [];
  const fields = bare ?? indexed;
  if (fields === undefined) throw badFormat(text, `"{{${expression}}}" is not understood`);
  const path = fields.split(".").filter((name) => name !== "");
  return { path: [...path, ...[...keys.matchAll(/"([^"]*)"|(\d+)/g)].map(([, key, index]) => key ?? index ?? "")], asJson: json !== undefined };
}

function fill({ text, pieces }: Template, object: object): string {
  return pieces.map((piece) => (typeof piece === "string" ? piece : show(valueOf(object, piece.path, text), piece.asJson))).join("");
}

function valueOf(object: object, path: readonly string[], text: string): unknown {
  let value: unknown = object;
  for (const name of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) {
      const known = typeof value === "object" && value !== null ? Object.keys(value) : [];
      throw badFormat(text, `there is no field "${name}"${known.length === 0 ? "" : `, only ${known.join(", ")}`}`);
    }
    value = (value as Readonly<Record<string, unknown>>)[name]; // checked just above
  }
  return value;
}

function show(value: unknown, asJson: boolean): string {
  if (typeof value === "string" && !asJson) return value;
  return JSON.stringify(value);
}

function badFormat(text: string, why: string): RuntimeError {
  return new RuntimeError("invalid_argument", `--format "${text}": ${why}`, { reason: "bad_format", hint: "for example --format json, or --format '{{.Name}}'; for more than fields use json and jq" });
}
