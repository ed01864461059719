import { Argument, type Command } from "commander";
import { bashCompletion } from "../format/bash-completion.ts";

export function define(command: Command): void {
  command
    .addArgument(new Argument("<shell>", "the shell that completes").choices(["bash"]))
    .addHelpText("after", "\nExamples:\n  source <(casemate completion bash)                       for this shell\n  casemate completion bash >/etc/bash_completion.d/casemate   for all")
    .action(() => {
      const program = command.parent;
      process.stdout.write(bashCompletion((program?.commands ?? []).map((one) => one.name())));
    });
}
