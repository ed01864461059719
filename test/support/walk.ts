/** A command of a document, with the output that is shown below it. */
export interface WalkStep {
  readonly command: string;
  readonly expected: readonly string[];
  /** Where the command is, counted from 1. */
  readonly line: number;
}

/**
 * The commands of a document's `console` blocks: a line that begins with `$ ` is a command, the lines
 * after it are what it prints. `…` stands for anything in a line, alone in a line for any lines;
 * spaces between the columns of a table may be more or less, from two on.
 */
export function parseWalk(markdown: string): WalkStep[] {
  const steps: { command: string; expected: string[]; line: number }[] = [];
  let inBlock = false;
  for (const [index, line] of markdown.split("\n").entries()) {
    if (line.startsWith("```")) inBlock = !inBlock && line === "```console";
    else if (inBlock && line.startsWith("$ ")) steps.push({ command: line.slice(2), expected: [], line: index + 1 });
    else if (inBlock) steps.at(-1)?.expected.push(line);
  }
  // An empty line before the next command or the block's end is layout.
  for (const { expected } of steps) while (expected.at(-1) === "") expected.pop();
  return steps;
}

/** What differs between the output and what the document shows; undefined when nothing does. */
export function walkDifference(step: WalkStep, output: string): string | undefined {
  const pattern = step.expected.map((line) => (line === "…" ? "(?:.*\\n)*?" : `${line.split("…").map(escape).join(".*").replaceAll(/ {2,}/g, " {2,}")}\\n`)).join("");
  const text = output === "" || output.endsWith("\n") ? output : `${output}\n`;
  if (new RegExp(`^${pattern}$`).test(text)) return undefined;
  return `line ${step.line}: $ ${step.command}\nthe document shows:\n${step.expected.join("\n")}\nit printed:\n${output}`;
}

function escape(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
