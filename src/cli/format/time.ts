import { RuntimeError } from "../../shared/base/errors.ts";

const units: readonly (readonly [name: string, seconds: number])[] = [["year", 31_536_000], ["month", 2_592_000], ["week", 604_800], ["day", 86_400], ["hour", 3_600], ["minute", 60]];

/** A length of time as docker words it: `Less than a second`, `5 seconds`, `About a minute`, `3 hours`. */
export function formatDuration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 1) return "Less than a second";
  if (seconds < 60) return `${seconds} second${seconds === 1 ? "" : "s"}`;
  // Docker counts a unit from two on; below it stays with the smaller one, but for these two.
  if (seconds < 120) return "About a minute";
  if (seconds >= 3_600 && seconds < 7_200) return "About an hour";
  const [name, size] = units.find(([, length]) => seconds >= 2 * length) ?? ["minute", 60];
  return `${Math.floor(seconds / size)} ${name}s`;
}

/** `3 hours ago`. */
export function formatAgo(unixMs: number, now = Date.now()): string {
  return `${formatDuration(now - unixMs)} ago`;
}

/** RFC 3339; docker's zero time for "never". */
export function formatTime(unixMs: number): string {
  return unixMs === 0 ? "0001-01-01T00:00:00Z" : new Date(unixMs).toISOString();
}

/** Seconds, fractions allowed, as milliseconds. @throws RuntimeError `invalid_argument`. */
export function parseSeconds(text: string, option: string): number {
  const seconds = Number(text);
  if (text.trim() === "" || !Number.isFinite(seconds) || seconds < 0) throw new RuntimeError("invalid_argument", `${option} "${text}": must be a number of seconds`, { reason: "bad_number" });
  return seconds * 1000;
}

/** A length of time as docker takes it, such as `1m30s` or `500ms`, in milliseconds: one at least. @throws RuntimeError `invalid_argument`. */
export function parseDuration(text: string, option: string): number {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
  const ms = parts.reduce((sum, [, number, unit = ""]) => sum + Number(number) * (unit === "ms" ? 1 : (secondsOf[unit] ?? 0) * 1000), 0);
  if (parts.map(([part]) => part).join("") !== text || ms < 1 && text !== "0s") throw new RuntimeError("invalid_argument", `${option} "${text}": must be a time such as 1m30s, at least 1ms`, { reason: "bad_time" });
  return Math.round(ms);
}

const secondsOf: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600, d: 86_400 };

/** A moment as docker takes it, in milliseconds since 1970: a date, seconds since 1970, or a time ago such as `10m` or `1h30m`. @throws RuntimeError `invalid_argument`. */
export function parseMoment(text: string, option: string, nowMs = Date.now()): number {
  const ago = [...text.matchAll(/(\d+(?:\.\d+)?)([smhd])/g)];
  const isAgo = text !== "" && ago.map(([part]) => part).join("") === text;
  const moment = isAgo ? nowMs - ago.reduce((sum, [, number, unit = ""]) => sum + Number(number) * (secondsOf[unit] ?? 0) * 1000, 0) : /^\d+(\.\d+)?$/.test(text) ? Number(text) * 1000 : Date.parse(text);
  if (!Number.isFinite(moment)) throw new RuntimeError("invalid_argument", `${option} "${text}": must be a date, seconds since 1970, or a time ago such as 10m`, { reason: "bad_time" });
  return Math.round(moment);
}
