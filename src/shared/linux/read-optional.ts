import { readFileSync } from "node:fs";
import { isErrnoException } from "../base/errors.ts";

/** A file's text; empty when there is none. */
export function readOptional(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return "";
    throw error;
  }
}
