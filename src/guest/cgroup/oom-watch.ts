import { existsSync, readFileSync, watch } from "node:fs";
import type { EventLog } from "../events.ts";
import { cgroupCounter, cgroupFile, cgroups, parseFlatKeyed } from "./cgroup-tree.ts";

/** OOM kills counted in a cgroup and below it (cgroup-v2, memory.events). */
export function oomKillCount(cgroup: string): number {
  return cgroupCounter(cgroup, "memory.events", "oom_kill");
}

/** How often a cgroup itself, or one below it, met its own limit without finding memory. */
function oomCount(cgroup: string): number {
  return cgroupCounter(cgroup, "memory.events", "oom");
}

/**
 * Announces OOM kills in a container from now on. A kill that no limit of the container explains came
 * from the limit of all containers together, or from a guest without free memory: that is told as
 * well, without a container. Returns the end of the watch.
 */
export function watchOom(name: { readonly containerId: string }, cgroup: string, events: EventLog): () => void {
  const file = cgroupFile(cgroup, "memory.events");
  if (!existsSync(file)) return () => undefined; // a guest without the memory controller counts nothing
  const tally = new OomTally(oomKillCount(cgroup), oomCount(cgroup));
  const check = (): void => {
    const kills = oomKillCount(cgroup);
    const cause = tally.count(kills, oomCount(cgroup));
    if (cause === undefined) return;
    events.append({ case: "oom", value: { containerId: name.containerId, oomKills: BigInt(kills) } });
    if (cause === "guest") events.append({ case: "oom", value: { containerId: "", oomKills: BigInt(guestOomKills()) } });
  };
  // The kernel reports a change of memory.events as a modification of the file.
  const watcher = watch(file, { persistent: false }, check);
  watcher.on("error", () => watcher.close()); // the cgroup is gone, and with it what could be watched
  return () => {
    check();
    watcher.close();
  };
}

/** Tells whose limit a kill came from, by the two counters of memory.events. */
export class OomTally {
  #kills: number;
  #ooms: number;

  constructor(kills: number, ooms: number) {
    this.#kills = kills;
    this.#ooms = ooms;
  }

  /** What caused the kills since the last call; undefined: there was none. */
  count(kills: number, ooms: number): "own" | "guest" | undefined {
    if (kills <= this.#kills) return undefined; // the container's own OOM is counted before the kill it leads to, and kept until then
    const cause = ooms > this.#ooms ? "own" : "guest";
    this.#kills = kills;
    this.#ooms = ooms;
    return cause;
  }
}

/** OOM kills in the whole guest since its boot. */
function guestOomKills(): number {
  return parseFlatKeyed(readFileSync("/proc/vmstat", "latin1")).get("oom_kill") ?? cgroupCounter(cgroups.containers, "memory.events", "oom_kill");
}
