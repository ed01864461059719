import { writeSync } from "node:fs";
import { describeError } from "./errors.ts";

export type LogLevel = "error" | "warn" | "info" | "debug";
export type LogFields = Readonly<Record<string, unknown>>;

/** One JSON object a line: time, level, message and fields such as sandboxId. Values of environment variables and secrets never go in. */
export class Logger {
  readonly #fields: LogFields;
  readonly #write: (line: string) => void;
  readonly #level: LogLevel;

  constructor(options: { readonly level?: LogLevel; readonly fields?: LogFields; readonly write?: (line: string) => void } = {}) {
    this.#level = options.level ?? "info";
    this.#fields = options.fields ?? {};
    this.#write = options.write ?? writeToStderr;
  }

  /** A logger that adds these fields to every line. */
  with(fields: LogFields): Logger {
    return new Logger({ level: this.#level, fields: { ...this.#fields, ...fields }, write: this.#write });
  }

  error(message: string, fields?: LogFields): void { this.#log("error", message, fields); }
  warn(message: string, fields?: LogFields): void { this.#log("warn", message, fields); }
  info(message: string, fields?: LogFields): void { this.#log("info", message, fields); }
  debug(message: string, fields?: LogFields): void { this.#log("debug", message, fields); }

  #log(level: LogLevel, message: string, fields: LogFields = {}): void {
    if (rank[level] > rank[this.#level]) return;
    const entries = Object.entries({ ...this.#fields, ...fields }).map(([key, value]) => [key, value instanceof Error ? describeError(value) : value]);
    this.#write(JSON.stringify({ time: new Date().toISOString(), level, message, ...Object.fromEntries(entries) }) + "\n");
  }
}

const rank: Readonly<Record<LogLevel, number>> = { error: 0, warn: 1, info: 2, debug: 3 };

function writeToStderr(line: string): void {
  try {
    writeSync(2, line);
  } catch {
    // Nobody reads our stderr any more (EPIPE, EAGAIN): a log line must not end the process.
  }
}

/** A logger that writes nothing. */
export const silentLogger = new Logger({ write: () => undefined });
