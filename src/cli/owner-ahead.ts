import { newSandboxId } from "../host/containers/names.ts";
import { startOwnerAhead } from "../host/control/start-owner.ts";
import { stateFolders } from "../host/store/paths.ts";

/** Starts the owner that `run` is going to need, before the rest of this program is loaded. */
export async function startOwnerOfRun(root: string | undefined): Promise<void> {
  try {
    await startOwnerAhead(stateFolders(root), newSandboxId());
  } catch {
    // The start that needs an owner says why there can be none.
  }
}
