/** What a row's verdict says of us: as the reference, better, deliberately otherwise, or not there yet. */
export type Verdict = "same" | "better" | "differs" | "open";

/** One line of docs/parity.md. */
export interface ParityRow {
  readonly id: string;
  readonly verdict: Verdict;
  /** Where it is done, and the test that shows it; empty for an open row. */
  readonly file: string;
  readonly test: string;
  /** How it is better, which decision says why it differs, or which part it waits for. */
  readonly note: string;
}

/** Parses the tables of docs/parity.md: `| row | verdict | file | test | note |`. */
export function parseParity(text: string): ParityRow[] {
  return text.split("\n").flatMap((line) => {
    const cells = line.split("|").slice(1, -1).map((cell) => cell.trim());
    const [id = "", verdict = "", file = "", test = "", note = ""] = cells;
    if (!/^(same|better|differs|open)$/.test(verdict)) return [];
    return [{ id, verdict: verdict as Verdict, file: unquote(file), test: unquote(test), note }]; // one of the four words, as matched
  });
}

/** What an open row may wait for. */
const openPart = /^storage part/;

/** What is wrong with the table, one line each. `read` gives a file's text, undefined when there is none. */
export function parityProblems(rows: readonly ParityRow[], names: readonly string[], read: (path: string) => string | undefined): string[] {
  const missing = names.filter((name) => !rows.some(({ id }) => id === name)).map((name) => `${name}: is missing`);
  const strange = rows.filter(({ id }) => !names.includes(id)).map(({ id }) => `${id}: is no row of the inventory`);
  const doubled = rows.filter(({ id }, index) => rows.findIndex((other) => other.id === id) !== index).map(({ id }) => `${id}: is there twice`);
  return [...missing, ...strange, ...doubled, ...rows.flatMap((row) => rowProblems(row, read))];
}

function rowProblems({ id, verdict, file, test, note }: ParityRow, read: (path: string) => string | undefined): string[] {
  if (verdict === "open") return openPart.test(note) ? [] : [`${id}: open, and not of the storage part`];
  const text = test === "" ? undefined : read(test);
  return [
    ...(read(file) === undefined ? [`${id}: ${file || "no file"} does not exist`] : []),
    ...(text === undefined ? [`${id}: ${test || "no test"} does not exist`] : mentions(text, id) ? [] : [`${id}: no test of ${test} has it in its title`]),
    ...(verdict === "better" && note === "" ? [`${id}: better how`] : []),
    ...(verdict === "differs" && !/docs\/adr\/\d{4}/.test(note) ? [`${id}: differs, but no decision says why`] : []),
  ];
}

/** True for a whole id: `D1` is not in `D12`. */
export function mentions(text: string, id: string): boolean {
  const escaped = id.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`(?<![\\w.])${escaped}(?![\\w])`).test(text);
}

function unquote(cell: string): string {
  return cell.replaceAll("`", "");
}
