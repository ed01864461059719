import { readFileSync, writeFileSync } from "node:fs";

const file = "/proc/self/oom_score_adj";
const protectedScore = "-1000";

/** Protects the agent from the OOM killer: without it nobody could see or stop the containers. */
export function protectFromOomKiller(): void {
  writeFileSync(file, protectedScore);
}

/**
 * Starts a child that is not protected. A child inherits the score at its birth, and crun 1.8 sets one
 * only for a container's first process, so the agent takes its own off for the length of the (synchronous) spawn.
 */
export function spawnUnprotected<T>(spawn: () => T): T {
  const before = readFileSync(file, "latin1").trim();
  if (before === "0") return spawn();
  writeFileSync(file, "0");
  try {
    return spawn();
  } finally {
    writeFileSync(file, before);
  }
}
