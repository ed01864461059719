/** docker pads each column to ten characters at least, three of them blank. */
const minWidth = 7;

/** Columns padded to their widest cell, three spaces between them, as docker prints lists. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, column) => Math.max(minWidth, title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]): string => cells.map((cell, column) => (column === cells.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join("   ");
  return [header, ...rows].map((row) => `${line(row)}\n`).join("");
}

/** One JSON object a line. */
export function formatJsonLines(values: readonly object[]): string {
  return values.map((value) => `${JSON.stringify(value)}\n`).join("");
}
