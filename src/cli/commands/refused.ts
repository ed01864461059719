import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";

/** docker's commands that are not here, with what to use instead. `build` has a help of its own. */
const refusedCommands: Readonly<Record<string, string>> = {
  buildx: "build with `podman build`, then fetch the image with `casemate pull containers-storage:NAME`",
  builder: "there is no build cache: `podman build` has its own",
  commit: "make the image from a Containerfile with `podman build`, or keep the whole state with `casemate snapshot create`",
  compose: "start the containers of one pod with `casemate pod`, or each with `casemate run`",
  context: "there is no daemon to choose: `--root` chooses the folder of all state",
  df: "`casemate images`, `casemate ps -as`, `casemate template ls` and `casemate snapshot ls` show what takes the disk",
  diff: "look at the files with `casemate exec`, or copy them with `casemate cp`",
  export: "copy the files with `casemate cp CONTAINER:/ -`",
  history: "`casemate image inspect` shows the layers; `skopeo inspect --config` shows how they were made",
  import: "write a Containerfile with `FROM scratch` and `ADD archive.tar /`, and build it with `podman build`",
  info: "`casemate check` says what this machine can do, `casemate version` which versions run",
  manifest: "look at it with `skopeo inspect --raw`",
  network: "there are no named networks: publish ports with -p",
  plugin: "there are no plugins",
  push: "push with `podman push` or `skopeo copy`",
  search: "search with `podman search`",
  swarm: "Casemate works on one machine",
  volume: "volumes are folders: name them with -v NAME:/path, find them below the data folder's `volumes`",
};

/** Whether it is one of them. */
export function isRefused(name: string): boolean {
  return Object.hasOwn(refusedCommands, name);
}

/** Defines one of them. */
export function defineRefused(command: Command, name: string): void {
  command.argument("[arguments...]").allowUnknownOption().helpOption(false).action(() => {
    throw new RuntimeError("unimplemented", `casemate has no command "${name}"`, { reason: "no_such_command", hint: refusedCommands[name] ?? "see `casemate --help`" });
  });
}
