// The `casemate` command. Each command's module is loaded only when it is called for, so that short
// commands stay short.
import { firstArgument, rootArgument } from "./arguments.ts";

const args = process.argv.slice(2);
if (firstArgument(args) === "run" && !args.includes("--help")) {
  const { startOwnerOfRun } = await import("./owner-ahead.ts");
  await startOwnerOfRun(rootArgument(args));
}
// Whoever read our output may have gone (`... | head`): a write that matters tells its caller.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);
const { runProgram } = await import("./program.ts");
await runProgram(args);
