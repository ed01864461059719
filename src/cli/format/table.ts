/** docker pads each column to ten characters at least, three of them blank. */
const minWidth = 7;

/** A column gets no narrower than this, however narrow the terminal is. */
const leastCut = 10;
const gap = "   ";

/** Columns of the terminal; without one, nothing is cut: a program that reads wants all of it. */
function terminalWidth(): number {
  return process.stdout.isTTY ? process.stdout.columns : Infinity;
}

/** Columns padded to their widest cell, three spaces between them, as docker prints lists. The widest ones are cut until the lines fit. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[], maxWidth = terminalWidth()): string {
  const widths = fit(header.map((title, column) => Math.max(column === header.length - 1 ? 0 : minWidth, title.length, ...rows.map((row) => row[column]?.length ?? 0))), maxWidth);
  const cell = (text: string, column: number): string => {
    const width = widths[column] ?? 0;
    const cut = text.length > width ? `${text.slice(0, width - 1)}…` : text;
    return column === header.length - 1 ? cut : cut.padEnd(width);
  };
  return [header, ...rows].map((row) => `${row.map(cell).join(gap)}\n`).join("");
}

/** Takes from the widest column, one by one, what is too much. */
function fit(wanted: readonly number[], maxWidth: number): number[] {
  const widths = [...wanted];
  for (let excess = widths.reduce((sum, width) => sum + width, (widths.length - 1) * gap.length) - maxWidth; excess > 0; excess--) {
    const widest = Math.max(...widths);
    if (widest <= leastCut) break;
    widths[widths.lastIndexOf(widest)] = widest - 1;
  }
  return widths;
}

/** One JSON object a line. */
export function formatJsonLines(values: readonly object[]): string {
  return values.map((value) => `${JSON.stringify(value)}\n`).join("");
}
