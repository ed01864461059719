import { Deadline, type WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";

/** Saving takes some 30 ms, loading less; a state with memory in it takes as long as its bytes on a slow disk. */
const defaultTimeoutMs = 60_000;
const fdName = "state";

/**
 * Writes the state of a paused VM to an open file or pipe: its devices, and what of its memory is not
 * shared with a file (QEMU's `x-ignore-shared`). The VM stays paused.
 */
export async function saveState(qmp: QmpClient, fd: number, options: WaitOptions = {}): Promise<void> {
  await transfer(qmp, "migrate", fd, { timeoutMs: defaultTimeoutMs, ...options });
}

/** Loads a state into a VM that was started with `-incoming defer`. The VM stays paused. */
export async function loadState(qmp: QmpClient, fd: number, options: WaitOptions = {}): Promise<void> {
  await transfer(qmp, "migrate-incoming", fd, { timeoutMs: defaultTimeoutMs, ...options });
}

async function transfer(qmp: QmpClient, command: "migrate" | "migrate-incoming", fd: number, options: WaitOptions): Promise<void> {
  const deadline = Deadline.after(options.timeoutMs);
  const wait = (): WaitOptions => ({ ...options, timeoutMs: deadline.remainingMs });
  // Not awaited one by one: QEMU takes commands in their order, and each wait costs a round trip.
  const capabilities = ["x-ignore-shared", "events"].map((capability) => ({ capability, state: true }));
  const ended = qmp.nextEvent(command, ({ event, data }) => event === "MIGRATION" && isOver(data["status"]), wait());
  ended.catch(() => { /* awaited below unless a command fails first */ });
  const given = qmp.execute("getfd", { fdname: fdName }, { ...wait(), fd });
  given.catch(() => { /* awaited below */ });
  await qmp.execute("migrate-set-capabilities", { capabilities }, wait());
  await given;
  await qmp.execute(command, { uri: `fd:${fdName}` }, wait());
  const { data } = await ended;
  if (data["status"] === "completed") return;
  const { "error-desc": why } = await qmp.execute("query-migrate", {}, wait()) as { readonly "error-desc"?: string }; // QEMU's schema
  throw new RuntimeError("internal", `QMP ${command}: ${String(data["status"])}${why === undefined ? "" : `: ${why}`}`);
}

function isOver(status: unknown): boolean {
  return status === "completed" || status === "failed" || status === "cancelled";
}
