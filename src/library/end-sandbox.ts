import { removeContainer, stopContainer } from "../host/containers/end-container.ts";
import { orAbandon } from "../shared/base/deadline.ts";
import type { SandboxConnection } from "./connection.ts";

/** Ends a sandbox politely, at the signal by force. Gone already is success. */
export async function stopSandbox(connection: SandboxConnection, options: { readonly timeoutMs: number; readonly signal: AbortSignal | undefined }): Promise<void> {
  const { folders, record } = connection;
  const stopped = stopContainer(folders, record, { timeoutMs: options.timeoutMs }); // with the lease held: its end would be less polite
  try {
    await orAbandon(stopped, `stop sandbox "${record.name}"`, { signal: options.signal });
  } catch (error) {
    if (options.signal?.aborted !== true) throw error;
    return killSandbox(connection);
  }
  connection.close();
  await removeContainer(folders, record, { force: true });
}

/** Ends a sandbox at once and removes it. Gone already is success. */
export async function killSandbox(connection: SandboxConnection): Promise<void> {
  const { folders, record } = connection;
  connection.close();
  await removeContainer(folders, record, { force: true });
}
