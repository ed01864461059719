import { readFileSync } from "node:fs";
import type { TestOutcome } from "./event-reporter.ts";

/** One kind of skip that is accepted in continuous integration (test/allowed-skips.json). */
export interface AllowedSkip {
  /** Path of the test file. */
  readonly file: string;
  /** What the test asked for with `requires(...)`. */
  readonly requirement: string;
  readonly why: string;
}

/** Reads the list. */
export function readAllowedSkips(path: string): AllowedSkip[] {
  const value: unknown = JSON.parse(readFileSync(path, "utf8"));
  const isEntry = (entry: unknown): entry is AllowedSkip => typeof entry === "object" && entry !== null
    && ["file", "requirement", "why"].every((key) => typeof Reflect.get(entry, key) === "string");
  if (!Array.isArray(value) || !value.every(isEntry)) throw new Error(`${path}: must be a list of {file, requirement, why}`);
  return value;
}

/**
 * What is wrong with the tests that did not run: skipped by other means than `requires()` anywhere,
 * or, in continuous integration, for a reason that is not on the list. Nothing is skipped in silence.
 */
export function skipProblems(outcomes: readonly TestOutcome[], allowed: readonly AllowedSkip[], ci: boolean): string[] {
  return outcomes.flatMap(({ outcome, name, file, reason }) => {
    if (outcome === "todo") return [`"${name}" is marked as todo: finish it or file it`];
    if (outcome !== "skipped") return [];
    const requirement = /^requires (\S+): /.exec(reason)?.[1];
    if (requirement === undefined) return [`"${name}" was skipped without requires() (test/support/requires.ts)`];
    const listed = allowed.some((skip) => file.endsWith(`/${skip.file}`) && skip.requirement === requirement);
    return ci && !listed ? [`"${name}" was skipped (${reason}), which is not in test/allowed-skips.json`] : [];
  });
}
