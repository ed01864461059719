import { createServer } from "node:net";
import { describeError } from "../../shared/base/errors.ts";
import { peerCredentials } from "../../shared/linux/peer-credentials.ts";
import { listenUnix } from "../../shared/linux/unix-socket.ts";
import { Task } from "../../shared/protocol/gen/containerd/task_pb.ts";
import { Owner as OwnerApi } from "../../shared/protocol/gen/owner_pb.ts";
import { TtrpcServer } from "../../shared/ttrpc/server.ts";
import { ownerService } from "./owner-service.ts";
import type { Owner } from "./owner.ts";
import { taskService } from "./task-service.ts";

/** Serves both services to processes of the same user, and to root. */
export function serve(owner: Owner, socketPath: string): { close(): void } {
  const services = new TtrpcServer();
  services.addService(Task, taskService(owner));
  services.addService(OwnerApi, ownerService(owner));
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const { uid } = peerCredentials(socket);
    if (uid !== 0 && uid !== process.geteuid?.()) {
      owner.log.warn("connection of another user refused", { uid });
      socket.destroy();
      return;
    }
    owner.connectionOpened();
    services.serve(socket).finally(() => owner.connectionClosed()).catch((error: unknown) => owner.log.debug("connection ended", { error: describeError(error) }));
  });
  const umask = process.umask(0o177);
  server.listen({ fd: listenUnix(socketPath) }); // not by its path, which may be longer than an address of a socket
  process.umask(umask);
  return { close: () => { server.close(); } };
}
