import type { CommandModule } from "../command.ts";

/** Loads a command. */
export type LoadCommand = () => Promise<CommandModule>;

/** docker's longer names for the same commands: `image ls` is `images`, and so on. */
export const groups: Readonly<Record<string, { readonly summary: string; readonly members: Readonly<Record<string, LoadCommand>> }>> = {
  image: {
    summary: "work on images: inspect, load, ls, prune, pull, rm, save, tag",
    members: {
      inspect: () => import("./image-inspect.ts"),
      load: () => import("./load.ts"),
      ls: () => import("./images.ts"),
      prune: () => import("./image-prune.ts"),
      pull: () => import("./pull.ts"),
      rm: () => import("./rmi.ts"),
      save: () => import("./save.ts"),
      tag: () => import("./tag.ts"),
    },
  },
  container: {
    summary: "docker's longer names of the commands for containers, such as container ls",
    members: {
      attach: () => import("./attach.ts"),
      cp: () => import("./cp.ts"),
      create: () => import("./create.ts"),
      exec: () => import("./exec.ts"),
      inspect: () => import("./inspect.ts"),
      kill: () => import("./kill.ts"),
      logs: () => import("./logs.ts"),
      ls: () => import("./ps.ts"),
      pause: () => import("./pause.ts"),
      port: () => import("./port.ts"),
      prune: () => import("./container-prune.ts"),
      rename: () => import("./rename.ts"),
      restart: () => import("./restart.ts"),
      rm: () => import("./rm.ts"),
      run: () => import("./run.ts"),
      start: () => import("./start.ts"),
      stats: () => import("./stats.ts"),
      stop: () => import("./stop.ts"),
      top: () => import("./top.ts"),
      unpause: () => import("./unpause.ts"),
      update: () => import("./update.ts"),
      wait: () => import("./wait.ts"),
    },
  },
  system: { summary: "work on everything: events, prune", members: { events: () => import("./events.ts"), prune: () => import("./prune.ts") } },
};

/** Other names of members, docker's too. */
export const memberAliases: Readonly<Record<string, readonly string[]>> = { ls: ["list"], rm: ["remove"] };
