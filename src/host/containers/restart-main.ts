// Starts a container again by its restart policy: node restart.js REQUEST, a RestartRequest as JSON. Run by
// the owner that has just ended; it ends when the next one is there.
import { eventually } from "../../shared/base/deadline.ts";
import { describeError } from "../../shared/base/errors.ts";
import { awaitRestart, noteFailedRestart, stillWanted, type RestartRequest } from "../control/await-restart.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { defaultStartTimeoutMs } from "../sandbox/sandbox-config.ts";
import { ContainerStore } from "../store/container-store.ts";
import { containerPaths } from "../store/paths.ts";
import { startDetached } from "./start-container.ts";

/** One that has done its work ends within milliseconds. */
const lockTimeoutMs = 5_000;

const [, , argument] = process.argv;
if (argument === undefined) {
  console.error("usage: restart REQUEST");
  process.exit(2);
}
const { folders, containerId, debug } = JSON.parse(argument) as RestartRequest; // written by await-restart.ts
const store = new ContainerStore(folders);
// Held until this program ends. Another one is at work when an owner that it has started fails, which starts us too;
// or it has just done what it was for.
const { restartLock } = containerPaths(folders, containerId);
const locked = (): number | undefined => (store.read(containerId) === undefined ? undefined : flockExclusive(restartLock));
if (await eventually("take the lock", locked, { timeoutMs: lockTimeoutMs }).catch(() => undefined) === undefined) process.exit();
const never = new AbortController();
for (let record = stillWanted(store, containerId); record !== undefined; record = await awaitRestart(store, record.sandboxId, never.signal)) {
  try {
    await startDetached(record, folders, { startTimeoutMs: defaultStartTimeoutMs, debug });
    break;
  } catch (error) {
    noteFailedRestart(store, containerId, describeError(error));
  }
}
process.exit(); // what a failed start has opened
