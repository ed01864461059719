import { Deadline, type WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError } from "../../../shared/base/errors.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";

/** Saving and loading take some 30 ms each. */
const defaultTimeoutMs = 60_000;
const fdName = "state";

/**
 * Writes the state of a paused VM's devices to a file that is open for writing alone. The guest's
 * memory is not part of it: QEMU's migration would write all memory that is not shared with a file,
 * so this is the command that was made for Xen, which keeps memory itself (docs/adr/0015). The result
 * is for {@link closeSavedFile}.
 */
export async function saveDevices(qmp: QmpClient, fd: number, options: WaitOptions = {}): Promise<number> {
  const wait = { timeoutMs: defaultTimeoutMs, ...options };
  const { "fdset-id": fdSet } = await qmp.execute("add-fd", {}, { ...wait, fd }) as { readonly "fdset-id": number }; // QEMU's schema
  await qmp.execute("xen-save-devices-state", { filename: `/dev/fdset/${fdSet}`, live: false }, wait);
  return fdSet;
}

/** Lets QEMU close the file. It does so only while the VM runs: of one that stands still it keeps the descriptor, and a deleted file its space. */
export async function closeSavedFile(qmp: QmpClient, fdSet: number, options: WaitOptions = {}): Promise<void> {
  await qmp.execute("remove-fd", { "fdset-id": fdSet }, options);
}

/** Loads the devices' state into a VM that was started with `-incoming defer` on the memory that belongs to it. QEMU lets the VM go on as soon as it has it. */
export async function loadDevices(qmp: QmpClient, fd: number, options: WaitOptions = {}): Promise<void> {
  const deadline = Deadline.after(options.timeoutMs ?? defaultTimeoutMs);
  const wait = (): WaitOptions => ({ ...options, timeoutMs: deadline.remainingMs });
  // Not awaited one by one: QEMU takes commands in their order, and each wait costs a round trip.
  const ended = qmp.nextEvent("migrate-incoming", ({ event, data }) => event === "MIGRATION" && isOver(data["status"]), wait());
  ended.catch(() => { /* awaited below unless a command fails first */ });
  await Promise.all([
    qmp.execute("getfd", { fdname: fdName }, { ...wait(), fd }),
    qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] }, wait()),
    qmp.execute("migrate-incoming", { uri: `fd:${fdName}` }, wait()),
  ]);
  const { data } = await ended;
  if (data["status"] === "completed") return;
  const { "error-desc": why } = await qmp.execute("query-migrate", {}, wait()) as { readonly "error-desc"?: string }; // QEMU's schema
  throw new RuntimeError("internal", `load the devices' state: ${String(data["status"])}${why === undefined ? "" : `: ${why}`}`);
}

function isOver(status: unknown): boolean {
  return status === "completed" || status === "failed" || status === "cancelled";
}
