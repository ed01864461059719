import { readFileSync, renameSync } from "node:fs";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";

/** What the reader of a kind of state file knows. */
export interface StateFileVersions {
  /** The version it writes. */
  readonly current: number;
  /** The oldest one it can read. */
  readonly oldest: number;
}

/** The error for a file that a later casemate wrote. Nothing is done to the file. */
export function newerVersion(step: string, found: number, known: number): RuntimeError {
  return new RuntimeError("failed_precondition", `${step}: version ${found}, this program knows ${known}`, { reason: "newer_version", hint: "it was written by a newer casemate: upgrade this one" });
}

/**
 * Reads a state file of ours: JSON with a `version`. Undefined when it is not there.
 * @throws RuntimeError `data_loss` for what is no state file, `failed_precondition` (reason `newer_version`).
 */
export function readStateFile(path: string, versions: StateFileVersions = { current: 1, oldest: 1 }): unknown {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "ENOTDIR")) return undefined;
    throw RuntimeError.wrap(error, `read "${path}"`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new RuntimeError("data_loss", `read "${path}": not JSON`, { cause: error });
  }
  const version = typeof value === "object" && value !== null && "version" in value ? value.version : undefined;
  if (typeof version !== "number" || version < versions.oldest) throw new RuntimeError("data_loss", `read "${path}": has no version that this program knows`);
  if (version > versions.current) throw newerVersion(`read "${path}"`, version, versions.current);
  return value;
}

/** Puts a file that cannot be read out of the way and keeps it for whoever looks into it. Returns its new path. */
export function setAside(path: string): string {
  const aside = `${path}.corrupt-${Date.now()}`;
  renameSync(path, aside);
  return aside;
}
