import { RuntimeError } from "../../shared/base/errors.ts";
import { connectUnix } from "../../shared/linux/unix-socket.ts";
import { Owner } from "../../shared/protocol/gen/owner_pb.ts";
import { Task } from "../../shared/protocol/gen/containerd/task_pb.ts";
import { TtrpcClient, createServiceClient, type ServiceClient } from "../../shared/ttrpc/client.ts";
import { sandboxPaths, type StateFolders } from "../store/paths.ts";

/** A connection to the owner of one sandbox. */
export interface OwnerClient {
  readonly task: ServiceClient<typeof Task>;
  readonly owner: ServiceClient<typeof Owner>;
  /** Resolves when the owner has gone. */
  readonly closed: Promise<unknown>;
  /** Whether the open connection alone keeps this program running, as it does at first. */
  keepAlive(keep: boolean): void;
  close(): void;
}

/** Connects to a sandbox's owner. @throws RuntimeError `unavailable` (reason `no_owner`) when there is none. */
export async function connectOwner(folders: StateFolders, sandboxId: string): Promise<OwnerClient> {
  try {
    const socket = await connectUnix(sandboxPaths(folders, sandboxId).ownerSocket);
    const client = TtrpcClient.over(socket);
    return {
      task: createServiceClient(Task, client),
      owner: createServiceClient(Owner, client),
      closed: client.closed,
      keepAlive: (keep) => { if (keep) socket.ref(); else socket.unref(); },
      close: () => client.close(),
    };
  } catch (error) {
    throw new RuntimeError("unavailable", `connect to the owner of sandbox "${sandboxId}"`, { cause: error, reason: "no_owner" });
  }
}
