import type { Owner } from "../../shared/protocol/gen/owner_pb.ts";
import type { Task } from "../../shared/protocol/gen/containerd/task_pb.ts";

/** Reads the descriptors of all that an owner serves, some 20 ms: whoever starts an owner does it while that one starts. */
export async function loadOwnerProtocol(): Promise<void> {
  await Promise.all([loadOwnerService(), loadTaskService()]);
}

/** Our own service. */
export async function loadOwnerService(): Promise<{ readonly Owner: typeof Owner }> {
  return import("../../shared/protocol/gen/owner_pb.ts");
}

/** Containerd's, 8 ms of it: a short command has no use for it. */
export async function loadTaskService(): Promise<{ readonly Task: typeof Task }> {
  return import("../../shared/protocol/gen/containerd/task_pb.ts");
}
