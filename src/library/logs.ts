import { setTimeout as delay } from "node:timers/promises";
import { LogFollower, readContainerLog, type LogRecord } from "../host/store/container-log.ts";
import { ContainerStore, type ContainerRecord, hasProcesses } from "../host/store/container-store.ts";
import { containerPaths, type StateFolders } from "../host/store/paths.ts";
import { readPresentStatus } from "../host/store/present-status.ts";

/**
 * A piece of what the sandbox's first process has printed.
 *
 * @example
 * for await (const { stream, time, text } of sandbox.logs()) if (stream === "stderr") console.log(time.toISOString(), text);
 */
export interface LogEntry {
  readonly stream: "stdout" | "stderr";
  readonly time: Date;
  readonly bytes: Uint8Array;
  readonly text: string;
}

/** How often a growing log is looked at. */
const pollMs = 50;

/** @internal Everything there is and, when following, what comes until the sandbox ends or the signal. */
export async function* readLogs(folders: StateFolders, record: ContainerRecord, options: { readonly follow: boolean; readonly signal: AbortSignal | undefined }): AsyncGenerator<LogEntry> {
  const { log } = containerPaths(folders, record.containerId);
  const store = new ContainerStore(folders);
  const seen = new Map<number, number>();
  let runId: bigint | undefined;
  const fresh = (entries: Iterable<LogRecord>): LogEntry[] => [...entries].filter(({ fd, offset, bytes, unixNanos }) => {
    if (fd === 0) { // a run begins, or goes on in another file
      if (unixNanos !== runId) seen.clear();
      runId = unixNanos;
      return false;
    }
    // The follower begins with a file that was read already.
    if (offset < (seen.get(fd) ?? 0)) return false;
    seen.set(fd, offset + bytes.length);
    return true;
  }).map(toEntry);
  yield* fresh(readContainerLog(log));
  if (!options.follow) return;
  const follower = new LogFollower(log);
  try {
    for (let running = true; running && options.signal?.aborted !== true;) {
      // Looked at before reading: what was printed before the end is then read after it.
      running = store.read(record.containerId) !== undefined && hasProcesses(readPresentStatus(store, record).status);
      yield* fresh(follower.poll());
      if (running) await delay(pollMs);
    }
  } finally {
    follower.close();
  }
}

function toEntry({ fd, unixNanos, bytes }: LogRecord): LogEntry {
  return { stream: fd === 2 ? "stderr" : "stdout", time: new Date(Number(unixNanos / 1_000_000n)), bytes, text: Buffer.from(bytes).toString() };
}
