import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { RuntimeError } from "../../shared/base/errors.ts";

/** Asks whoever sits at the terminal; a hidden answer is not shown. @throws RuntimeError `failed_precondition` (reason `no_terminal`). */
export async function ask(question: string, options: { readonly hidden: boolean }): Promise<string> {
  if (!process.stdin.isTTY) throw new RuntimeError("failed_precondition", `nobody can answer "${question.trim()}"`, { reason: "no_terminal", hint: "say it by an option" });
  let silent = false;
  const output = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      if (!silent) process.stderr.write(chunk);
      done();
    },
  });
  const lines = createInterface({ input: process.stdin, output, terminal: true });
  try {
    const answer = lines.question(question);
    silent = options.hidden;
    return await answer;
  } finally {
    lines.close();
    if (options.hidden) process.stderr.write("\n");
  }
}
