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

/** Whether one of the labels is meant: `NAME`, or `NAME=VALUE`. */
export function fitsLabel(labels: Readonly<Record<string, string>>, wanted: string): boolean {
  const equals = wanted.indexOf("=");
  return equals === -1 ? wanted in labels : labels[wanted.slice(0, equals)] === wanted.slice(equals + 1);
}

/** Whether a container's name is meant: by a part of it, or by a regular expression as docker has it, also for the name with a slash before it. */
export function fitsPattern(name: string, wanted: string): boolean {
  try {
    const pattern = new RegExp(wanted);
    return pattern.test(name) || pattern.test(`/${name}`);
  } catch (error) {
    throw new RuntimeError("invalid_argument", `filter "name=${wanted}"`, { cause: error, reason: "bad_filter" });
  }
}

/** Whether one of the names is meant, in which `*` and `?` stand for anything but a slash. */
export function fitsName(names: readonly string[], wanted: string): boolean {
  const pattern = new RegExp(`^${wanted.replaceAll(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", "[^/]*").replaceAll("?", "[^/]")}$`);
  return names.some((name) => pattern.test(name));
}
