import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";

/** docker's commands that are not here, with what to use instead. `build` has a help of its own. */
export const refusedCommands: Readonly<Record<string, string>> = {
  commit: "make the image from a Containerfile with `podman build`, or keep the whole state with `casemate snapshot create`",
  diff: "look at the files with `casemate exec`, or copy them with `casemate cp`",
  export: "copy the files with `casemate cp CONTAINER:/ -`",
  history: "`casemate image inspect` shows the layers; `skopeo inspect --config` shows how they were made",
  import: "write a Containerfile with `FROM scratch` and `ADD archive.tar /`, and build it with `podman build`",
  network: "there are no named networks: publish ports with -p",
  push: "push with `podman push` or `skopeo copy`",
  search: "search with `podman search`",
  swarm: "Casemate works on one machine",
  volume: "volumes are folders: name them with -v NAME:/path, find them below the data folder's `volumes`",
};

/** Defines one of them. */
export function defineRefused(command: Command, name: string): void {
  command.argument("[arguments...]").allowUnknownOption().helpOption(false).action(() => {
    throw new RuntimeError("unimplemented", `casemate has no command "${name}"`, { reason: "no_such_command", hint: refusedCommands[name] ?? "see `casemate --help`" });
  });
}
