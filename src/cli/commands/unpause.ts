import type { Command } from "commander";
import { unpauseContainer } from "../../host/containers/pause-container.ts";
import { definePause } from "./pause-options.ts";

export function define(command: Command): void {
  definePause(command, "let the whole VM go on", unpauseContainer);
}
