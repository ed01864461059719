import { RuntimeError } from "../../shared/base/errors.ts";

const units: Readonly<Record<string, number>> = { "": 1, b: 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 };

/** Parses docker's sizes: `512m`, `2g`, `1.5GiB`, plain bytes; units are powers of 1024. @throws RuntimeError `invalid_argument`. */
export function parseSize(text: string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?$/i.exec(text.trim());
  const unit = units[match?.[2]?.toLowerCase() ?? "?"];
  if (match?.[1] === undefined || unit === undefined) throw new RuntimeError("invalid_argument", `${option} "${text}": must be a size`, { reason: "bad_size", hint: "for example 512m or 2g" });
  return Math.floor(Number(match[1]) * unit);
}

/** `7.5MB`, as docker shows sizes: powers of 1000, three digits. */
export function formatSize(bytes: number): string {
  const names = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes, index = 0;
  while (value >= 1000 && index < names.length - 1) {
    value /= 1000;
    index++;
  }
  return `${Number(value.toPrecision(3))}${names[index]}`;
}
