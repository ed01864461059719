import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { RuntimeError, codeOf } from "../shared/base/errors.ts";
import type { RunOptions } from "./options.ts";
import { RunError, type RunResult } from "./run-result.ts";
import type { SandboxProcess } from "./sandbox-process.ts";

const defaultMaxOutputBytes = 64 * 1024 * 1024;

/** Collects a process's output up to a limit for both streams together. */
class Collector {
  readonly #chunks = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  readonly #maxBytes: number;
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** @throws RuntimeError `resource_exhausted` (reason `output_limit`) when there is more; what fits is kept. */
  async take(name: "stdout" | "stderr", stream: AsyncIterable<Buffer>): Promise<void> {
    for await (const chunk of stream) {
      const room = this.#maxBytes - this.#bytes;
      this.#bytes += chunk.length;
      if (room > 0) this.#chunks[name].push(chunk.subarray(0, room));
      if (chunk.length > room) throw new RuntimeError("resource_exhausted", `the process printed more than ${this.#maxBytes} bytes`, { reason: "output_limit", hint: "raise maxOutputBytes, or read its output as a stream with spawn()" });
    }
  }

  bytes(name: "stdout" | "stderr"): Buffer {
    return Buffer.concat(this.#chunks[name]);
  }
}

/** Lets a process run to its end and collects what it prints. @throws RunError when a limit ends it first. */
export async function collectRun(process: SandboxProcess, options: RunOptions): Promise<RunResult> {
  const began = performance.now();
  const collector = new Collector(options.maxOutputBytes ?? defaultMaxOutputBytes);
  const output = Promise.all([collector.take("stdout", process.stdout), collector.take("stderr", process.stderr)]);
  output.catch(() => undefined); // awaited below
  try {
    await process.started;
    if (options.stdin !== undefined) void sendInput(process, options.stdin);
    const [exit] = await Promise.all([process.wait(), output]);
    const stdoutBytes = collector.bytes("stdout"), stderrBytes = collector.bytes("stderr");
    return { ...exit, stdout: stdoutBytes.toString(), stderr: stderrBytes.toString(), stdoutBytes, stderrBytes, durationMs: performance.now() - began };
  } catch (error) {
    const code = codeOf(error);
    if (code === "resource_exhausted") await process[Symbol.asyncDispose](); // the process itself keeps the other limits
    if (code !== "deadline_exceeded" && code !== "canceled" && code !== "resource_exhausted") throw error;
    throw new RunError(code, "run a command", { stdout: collector.bytes("stdout").toString(), stderr: collector.bytes("stderr").toString(), durationMs: performance.now() - began }, { cause: error });
  }
}

/** A process need not read its input: that it did not is no failure. */
async function sendInput(process: SandboxProcess, input: NonNullable<RunOptions["stdin"]>): Promise<void> {
  try {
    const source = typeof input === "string" || input instanceof Uint8Array ? [input] : input;
    await pipeline(Readable.from(source, { objectMode: false }), process.stdin);
  } catch {
    process.stdin.end();
  }
}
