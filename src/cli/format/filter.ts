import { RuntimeError } from "../../shared/base/errors.ts";

/** One `--filter KEY=VALUE`. */
export interface Filter {
  readonly key: string;
  readonly value: string;
}

/** @throws RuntimeError `invalid_argument` (reason `bad_filter`) for another key than these. */
export function parseFilter(text: string, keys: readonly string[]): Filter {
  const equals = text.indexOf("=");
  const key = text.slice(0, Math.max(0, equals));
  if (!keys.includes(key)) throw new RuntimeError("invalid_argument", `filter "${text}": must be ${keys.map((name) => `${name}=`).join(", ")}`, { reason: "bad_filter" });
  return { key, value: text.slice(equals + 1) };
}
