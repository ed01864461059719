import { orAbandon, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { type ContainerRecord, processUser } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { buildExecProcess } from "./build-spec.ts";
import { withOwner } from "./end-container.ts";
import { runCollected } from "./run-collected.ts";

/** A copy that is not ready by then never will be; docs/templates.md names it. */
const cloneCommandTimeoutMs = 60_000;
/** How much of what it printed goes into the error. */
const outputTailChars = 500;

/**
 * Runs in a copy of a running container what its user wants done in every copy, and waits for the end.
 * @throws RuntimeError `failed_precondition` (reason `clone_command_failed`), `deadline_exceeded`.
 */
export async function runCloneCommand(folders: StateFolders, record: ContainerRecord, { signal, timeoutMs = cloneCommandTimeoutMs }: WaitOptions): Promise<void> {
  const command = record.settings?.cloneCommand;
  if (command === undefined) return;
  const process = buildExecProcess(record, { args: ["/bin/sh", "-c", command], env: [], terminal: false, privileged: false, workingDir: undefined });
  const run = withOwner(folders, record, (client) => runCollected(client, record.containerId, process, { user: processUser(record) }));
  const { end, stdout, stderr } = await orAbandon(run, `run "${command}" in the copy`, { timeoutMs: Math.min(timeoutMs, cloneCommandTimeoutMs), ...(signal && { signal }) });
  if (end.type === "exit" && end.exitStatus === 0) return;
  const said = (stdout + stderr).trim().slice(-outputTailChars);
  throw new RuntimeError("failed_precondition", `run "${command}" in the copy: ${end.type === "exit" ? `exit code ${end.exitStatus}` : end.type}${said === "" ? "" : `: ${said}`}`, { reason: "clone_command_failed", hint: "mend the command that was given with --clone-cmd; the copy was removed" });
}
