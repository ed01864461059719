/** The source of container-state.ts with one guard turned round: a state allowed that was not, or refused that was allowed. */
export function flipGuard(source: string, row: string, state: string): string {
  const line = new RegExp(`^  ${row}: \\[(.*)\\],$`, "gm");
  const matches = [...source.matchAll(line)];
  const [match] = matches;
  if (match === undefined || matches.length > 1) throw new Error(`container-state.ts has ${matches.length} rows "${row}"`);
  const list = (match[1] ?? "").split(", ").filter((entry) => entry !== "");
  const quoted = JSON.stringify(state);
  const flipped = list.includes(quoted) ? list.filter((entry) => entry !== quoted) : [...list, quoted];
  return source.replace(match[0], `  ${row}: [${flipped.join(", ")}],`);
}
