/** How a container's health is asked for; docker's HEALTHCHECK. */
export interface HealthCheck {
  /** `["CMD", program, ...]`, or `["CMD-SHELL", line]` for the container's /bin/sh. */
  readonly test: readonly string[];
  /** From the end of one probe to the beginning of the next. */
  readonly intervalMs: number;
  /** Longest probe. */
  readonly timeoutMs: number;
  /** So many failures in a row make it unhealthy. */
  readonly retries: number;
  /** Failures so soon after the start do not count, until the first success. */
  readonly startPeriodMs: number;
}

/** One look at a container's health. */
export interface HealthProbe {
  readonly startUnixMs: number;
  readonly endUnixMs: number;
  /** 0: healthy; -1: it took too long, or could not be run. */
  readonly exitCode: number;
  readonly output: string;
}

/** A container's health as of its latest probe. */
export interface HealthState {
  readonly status: "starting" | "healthy" | "unhealthy";
  readonly failingStreak: number;
  /** The latest probes, oldest first. */
  readonly log: readonly HealthProbe[];
}

/** docker's defaults. */
export const defaultHealthCheck: Omit<HealthCheck, "test"> = { intervalMs: 30_000, timeoutMs: 30_000, retries: 3, startPeriodMs: 0 };
export const newHealth: HealthState = { status: "starting", failingStreak: 0, log: [] };
const keptProbes = 5;

/** A container's health after one more probe. */
export function afterProbe(check: HealthCheck, before: HealthState, probe: HealthProbe, startedAtUnixMs: number): HealthState {
  const log = [...before.log, probe].slice(-keptProbes);
  if (probe.exitCode === 0) return { status: "healthy", failingStreak: 0, log };
  if (before.status === "starting" && probe.startUnixMs - startedAtUnixMs < check.startPeriodMs) return { ...before, log };
  const failingStreak = before.failingStreak + 1;
  return { status: failingStreak >= check.retries ? "unhealthy" : before.status, failingStreak, log };
}
