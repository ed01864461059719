/** When a container is started again after it has ended; docker's meanings. */
export interface RestartPolicy {
  readonly name: "no" | "on-failure" | "always" | "unless-stopped";
  /** Of `on-failure`: how often; 0: without end. */
  readonly maxRetries: number;
}

/** How far a container's restarts have come since somebody started it. */
export interface RestartState {
  readonly count: number;
  /** Pause before the latest one. */
  readonly delayMs: number;
  /** When the latest one was due. */
  readonly atUnixMs: number;
}

/** How a run of a container went, for the decision what comes after it. */
export interface EndedRun {
  readonly exitCode: number;
  readonly ranMs: number;
  /** Somebody asked it to end. */
  readonly stopRequested: boolean;
}

export const noRestart: RestartPolicy = { name: "no", maxRetries: 0 };

/** docker's pauses: they double from the first to the longest, and begin anew after a run that was long enough. */
const firstDelayMs = 100;
const longestDelayMs = 60_000;
const steadyRunMs = 10_000;

/** The restart that follows a run; undefined: none does. */
export function nextRestart(policy: RestartPolicy, run: EndedRun, before: RestartState | undefined, nowUnixMs: number): RestartState | undefined {
  const count = before?.count ?? 0;
  if (run.stopRequested || !wants(policy, run.exitCode, count)) return undefined;
  const delayMs = before === undefined || run.ranMs >= steadyRunMs ? firstDelayMs : Math.min(longestDelayMs, before.delayMs * 2);
  return { count: count + 1, delayMs, atUnixMs: nowUnixMs + delayMs };
}

/** Whether a container that ran before is started when the host comes up; docker's rule for its daemon's start. */
export function startsAtBoot(policy: RestartPolicy, run: Omit<EndedRun, "ranMs">, before: RestartState | undefined): boolean {
  if (policy.name === "always") return true;
  return !run.stopRequested && wants(policy, run.exitCode, before?.count ?? 0);
}

function wants({ name, maxRetries }: RestartPolicy, exitCode: number, count: number): boolean {
  switch (name) {
    case "no": return false;
    case "on-failure": return exitCode !== 0 && (maxRetries === 0 || count < maxRetries);
    case "always":
    case "unless-stopped": return true;
  }
}
