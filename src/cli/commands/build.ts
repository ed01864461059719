import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";

export function define(command: Command): void {
  command
    .argument("[arguments...]")
    .allowUnknownOption()
    .action(() => {
      throw new RuntimeError("unimplemented", "casemate does not build images", {
        reason: "no_build",
        hint: "build with `podman build -t NAME .` and fetch the result with `casemate pull containers-storage:localhost/NAME`",
      });
    });
}
