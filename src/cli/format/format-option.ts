import { RuntimeError } from "../../shared/base/errors.ts";
import { formatJsonLines, formatTable } from "./table.ts";

/** The option's line in the help. */
export const formatHelp = "\"json\", \"table\", or a template such as '{{.ID}} {{.State}}' or '{id} {state}'";

/** What `--format` asks for. */
export type Format =
  | { readonly type: "json" }
  | { readonly type: "table"; readonly template: Template | undefined }
  | { readonly type: "template"; readonly template: Template };

/**
 * docker's templates, as far as scripts use them: text with fields in braces, `{{.Names}}`, `{{.State.Status}}`,
 * `{{index .Config.Labels "a"}}`, `{{json .Mounts}}`. In a text without double braces, single ones do: `{names}`.
 */
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
  if (!text.includes("{{") && !shortField.test(text)) throw badFormat(text, "is neither \"json\" nor \"table\" nor a template");
  const table = /^table\s+/.exec(text)?.[0];
  return table === undefined ? { type: "template", template: parseTemplate(text) } : { type: "table", template: parseTemplate(text.slice(table.length)) };
}

/** A list in that format: a line for each row, or the table the command has by default. `headings`: of columns that docker heads with other words than the field's name. */
export function formatRows(rows: readonly object[], format: Format, defaultTable: () => string, headings: Headings = {}): string {
  if (format.type === "json") return formatJsonLines(rows);
  const { template } = format;
  if (template === undefined) return defaultTable();
  if (format.type === "template") return rows.map((row) => `${fill(template, row)}\n`).join("");
  const header = template.pieces.map((piece) => (typeof piece === "string" ? piece : headingOf(piece, rows[0] ?? {}, headings))).join("");
  return formatTable(header.split("\t"), rows.map((row) => fill(template, row).split("\t")));
}

/** Words at the head of a column, by the field's name. */
export type Headings = Readonly<Record<string, string>>;

/** docker's rule: the words of the field's name, `CREATED AT` for `CreatedAt`. */
function headingOf({ path }: Field, row: object, headings: Headings): string {
  const name = path.at(-1) ?? "";
  const known = keyIn(headings, name);
  return known !== undefined ? headings[known] ?? "" : (keyIn(row, name) ?? name).replaceAll(/(?<=[a-z])(?=[A-Z])/g, " ").toUpperCase();
}

/** Objects in that format: all as one JSON array, or a line for each. */
export function formatObjects(objects: readonly object[], format: Format): string {
  if (format.type === "table") throw badFormat("table", "whole objects make no table");
  return format.type === "template" ? objects.map((object) => `${fill(format.template, object)}\n`).join("") : `${JSON.stringify(objects, undefined, 4)}\n`;
}

function parseTemplate(text: string): Template {
  // A shell passes \t and \n on as two characters each.
  const unescaped = text.replaceAll("\\t", "\t").replaceAll("\\n", "\n");
  if (!text.includes("{{")) return { text, pieces: unescaped.split(shortField).map((piece, index) => (index % 2 === 0 ? piece : { path: piece.split("."), asJson: false })).filter((piece) => piece !== "") };
  const pieces = unescaped.split(/(\{\{.*?\}\})/s).filter((piece) => piece !== "").map((piece) => (piece.startsWith("{{") ? parseField(piece.slice(2, -2).trim(), text) : piece));
  return { text, pieces };
}

/** `{name}`, `{State.Status}`; other braces are text. */
const shortField = /\{([A-Za-z]\w*(?:\.\w+)*)\}/;

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
    const holder: object = typeof value === "object" && value !== null ? value : {};
    const key = keyIn(holder, name);
    if (key === undefined) {
      const known = Object.keys(holder);
      throw badFormat(text, `there is no field "${name}"${known.length === 0 ? "" : `, only ${known.join(", ")}`}`);
    }
    value = (holder as Readonly<Record<string, unknown>>)[key]; // keyIn() says so
  }
  return value;
}

/** The key that is meant: written just so, or else in other upper and lower case. */
function keyIn(object: object, name: string): string | undefined {
  return Object.hasOwn(object, name) ? name : Object.keys(object).find((key) => key.toLowerCase() === name.toLowerCase());
}

function show(value: unknown, asJson: boolean): string {
  if (typeof value === "string" && !asJson) return value;
  return JSON.stringify(value);
}

function badFormat(text: string, why: string): RuntimeError {
  return new RuntimeError("invalid_argument", `--format "${text}": ${why}`, { reason: "bad_format", hint: "for example --format json, or --format '{{.Name}}'; for more than fields use json and jq" });
}
