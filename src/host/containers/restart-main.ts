// Starts a container again by its restart policy: node restart.js REQUEST, a RestartRequest as JSON. Run by
// the owner that has just ended; it ends when the next one is there.
import { describeError } from "../../shared/base/errors.ts";
import { awaitRestart, noteFailedRestart, stillWanted, type RestartRequest } from "../control/await-restart.ts";
import { defaultStartTimeoutMs } from "../sandbox/sandbox-config.ts";
import { ContainerStore } from "../store/container-store.ts";
import { startDetached } from "./start-container.ts";

const [, , argument] = process.argv;
if (argument === undefined) {
  console.error("usage: restart REQUEST");
  process.exit(2);
}
const { folders, containerId, debug } = JSON.parse(argument) as RestartRequest; // written by await-restart.ts
const store = new ContainerStore(folders);
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
