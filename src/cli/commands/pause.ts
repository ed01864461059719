import type { Command } from "commander";
import { pauseContainer } from "../../host/containers/pause-container.ts";
import { definePause } from "./pause-options.ts";

export function define(command: Command): void {
  definePause(command, "stop the whole VM, which then costs no CPU", pauseContainer);
}
