// docker's options of `run` and `create` for a container's health.
import type { Command } from "commander";
import type { ContainerOptions } from "../../host/containers/container-options.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { parseDuration } from "../format/time.ts";

/** What the parser leaves of them. */
export interface HealthFlags {
  readonly healthCmd?: string;
  readonly healthInterval?: string;
  readonly healthTimeout?: string;
  readonly healthRetries?: string;
  readonly healthStartPeriod?: string;
  /** False with --no-healthcheck. */
  readonly healthcheck?: boolean;
}

/** Defines them. */
export function defineHealth(command: Command): Command {
  return command
    .option("--health-cmd <command>", "shell command that exits with 0 while the container is healthy; default: the image's")
    .option("--health-interval <time>", "time between two of them, e.g. 10s; default: 30s")
    .option("--health-timeout <time>", "longest one; default: 30s")
    .option("--health-retries <number>", "failures in a row that make it unhealthy; default: 3")
    .option("--health-start-period <time>", "failures this soon after the start do not count; default: 0s")
    .option("--no-healthcheck", "do without the image's");
}

/** What they mean. @throws RuntimeError `invalid_argument` naming the option. */
export function toHealthOptions(flags: HealthFlags): Pick<ContainerOptions, "health"> {
  const { healthCmd, healthInterval, healthTimeout, healthRetries, healthStartPeriod } = flags;
  const given = [healthCmd, healthInterval, healthTimeout, healthRetries, healthStartPeriod].some((value) => value !== undefined);
  if (flags.healthcheck === false && given) throw new RuntimeError("invalid_argument", "--no-healthcheck and --health-* options exclude each other", { reason: "bad_option" });
  if (flags.healthcheck === false) return { health: "none" };
  if (!given) return {};
  return {
    health: {
      ...(healthCmd !== undefined && { test: healthCmd === "" ? [] : ["CMD-SHELL", healthCmd] }),
      ...(healthInterval !== undefined && { intervalMs: parseDuration(healthInterval, "--health-interval") }),
      ...(healthTimeout !== undefined && { timeoutMs: parseDuration(healthTimeout, "--health-timeout") }),
      ...(healthRetries !== undefined && { retries: parseRetries(healthRetries) }),
      ...(healthStartPeriod !== undefined && { startPeriodMs: parseDuration(healthStartPeriod, "--health-start-period") }),
    },
  };
}

function parseRetries(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new RuntimeError("invalid_argument", `--health-retries "${text}": must be a whole number from 1 on`, { reason: "bad_number" });
  return Number(text);
}
