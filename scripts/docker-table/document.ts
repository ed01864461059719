import { cases, type Case } from "./cases.ts";

const begin = "<!-- table: made by npm run docker-table -- --write -->", end = "<!-- end of table -->";

/** The command as a reader would type it. */
export function written({ command, input }: Case): string {
  const words = command.map((word) => (/^[\w./:=@%,{}-]+$/.test(word) && !word.includes("{{") ? word : `'${word}'`)).join(" ").replaceAll("FILES/", "");
  return input === undefined ? words : `${words} (with input)`;
}

/** The table of docs/docker.md. */
export function table(): string {
  const rows = cases.map((one) => `| \`${written(one).replaceAll("|", "\\|")}\` | ${one.verdict} | ${one.note ?? ""} |`);
  const count = (verdict: Case["verdict"]): number => cases.filter((one) => one.verdict === verdict).length;
  return [`${cases.length} commands: ${count("same")} same, ${count("differs")} differ, ${count("refused")} refused.`, "", "| after `docker` or `casemate` | | |", "|---|---|---|", ...rows].join("\n");
}

/** The page with its table replaced. */
export function withTable(page: string): string {
  const from = page.indexOf(begin), to = page.indexOf(end);
  if (from === -1 || to === -1) throw new Error("docs/docker.md has no place for the table");
  return `${page.slice(0, from + begin.length)}\n\n${table()}\n\n${page.slice(to)}`;
}
