// Plays a model that solves a task in three calls, the second of them a mistake.
import { CodeTool, definition } from "./run-code.mjs";

const calls = [
  { script: "wc -w <poem.txt", files: { "poem.txt": "so much depends\nupon\n" } },
  { script: "while true; do :; done" },
  { script: "sort poem.txt && ls" }, // the file is still there
];

await using tool = new CodeTool();
console.log(`tool: ${definition.name}`);
for (const call of calls) {
  console.log(`model: ${call.script}`);
  console.log(await tool.call(call, { timeoutMs: 3_000 }));
}
