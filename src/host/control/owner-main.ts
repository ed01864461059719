// The owner of one sandbox: node owner.js SANDBOX_FOLDER. Descriptor 3, when open, takes one line of
// JSON as soon as the sandbox is up or has failed (docs/files.md, "ready line").
import { closeSync, existsSync, fstatSync, writeSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { RuntimeError, codeOf, describeError, isErrnoException } from "../../shared/base/errors.ts";
import { Logger } from "../../shared/base/log.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { peerCredentials } from "../../shared/linux/peer-credentials.ts";
import { listenUnix } from "../../shared/linux/unix-socket.ts";
import { Owner as OwnerApi } from "../../shared/protocol/gen/owner_pb.ts";
import { Task } from "../../shared/protocol/gen/containerd/task_pb.ts";
import { TtrpcServer } from "../../shared/ttrpc/server.ts";
import { drivers } from "../assemble.ts";
import { Sandbox } from "../sandbox/sandbox.ts";
import { defaultStartTimeoutMs, type SandboxConfig } from "../sandbox/sandbox-config.ts";
import { ContainerStore } from "../store/container-store.ts";
import { Ledger } from "../store/ledger.ts";
import { sandboxPaths } from "../store/paths.ts";
import { readStateFile } from "../store/state-file.ts";
import { Owner } from "./owner.ts";
import { ownerService } from "./owner-service.ts";
import { releaseHeld } from "./lost-sandbox.ts";
import { removeSandboxFolder } from "./sweep.ts";
import { taskService } from "./task-service.ts";

/** Time a sandbox gets to end politely when its owner is told to. */
const stopTimeoutMs = 12_000;
const readyFd = 3;

async function main(folder: string): Promise<void> {
  const config = readStateFile(join(folder, "sandbox.json")) as SandboxConfig | undefined; // written by start-owner.ts, which checked it
  if (config === undefined) throw new RuntimeError("not_found", `read "${folder}/sandbox.json"`);
  const paths = sandboxPaths(config.folders, config.sandboxId);
  const log = new Logger({ level: config.debug ? "debug" : "info", fields: { sandboxId: config.sandboxId } });
  const lock = flockExclusive(paths.ownerLock);
  if (lock === undefined) throw new RuntimeError("already_exists", `sandbox "${config.sandboxId}" has an owner already`);
  const store = new ContainerStore(config.folders);
  const ledger = Ledger.open(paths.ledger);
  if (ledger.records.length > 0) {
    // An owner before this one died; what it held is given back, and its containers are marked as lost.
    for (const failure of await releaseHeld(config.folders, config.sandboxId)) log.error("not released", { error: describeError(failure) });
    return;
  }
  const starting = Promise.withResolvers<Sandbox>();
  const giveUp = new AbortController();
  const owner = new Owner(starting.promise, giveUp, store, log);
  const server = serve(owner, paths.ownerSocket);
  process.on("SIGTERM", () => void owner.finish(stopTimeoutMs));
  try {
    const sandbox = await Sandbox.create(config, { drivers, ledger, log, onEvent: owner.onEvent, recordEnd: owner.recordEnd }, { timeoutMs: config.startTimeoutMs ?? defaultStartTimeoutMs, signal: giveUp.signal });
    starting.resolve(sandbox);
    for (const warning of sandbox.warnings) log.warn(warning);
    // Whoever started us was killed while the sandbox came up: nobody knows of it.
    if (announce({ ready: true, warnings: sandbox.warnings }) === "unheard") void owner.finish(0);
    await owner.finished;
  } catch (error) {
    starting.reject(error);
    const failures = RuntimeError.is(error) ? error.cleanupErrors : [];
    log.error("sandbox not started", { error: describeError(error), cleanupErrors: failures.map(describeError) });
    announce({ error: { code: codeOf(error), message: describeError(error), reason: RuntimeError.is(error) ? error.reason : undefined, hint: RuntimeError.is(error) ? error.hint : undefined } });
  }
  server.close();
  removeSandboxFolder(paths.folder);
  closeSync(lock);
}

/** Serves both services to processes of the same user, and to root. */
function serve(owner: Owner, socketPath: string): { close(): void } {
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

/** Tells the process that started the owner how it went. A restarted owner has nobody to tell; `unheard`: whoever there was has gone. */
function announce(line: object): "told" | "unheard" | "nobody" {
  try {
    if (!fstatSync(readyFd).isFIFO() && !fstatSync(readyFd).isSocket()) return "nobody";
    writeSync(readyFd, JSON.stringify(line) + "\n");
    closeSync(readyFd);
    return "told";
  } catch (error) {
    return isErrnoException(error, "EPIPE") ? "unheard" : "nobody"; // EBADF: started again by the supervisor
  }
}

const [, , folder] = process.argv;
if (folder === undefined || !existsSync(folder)) {
  console.error("usage: owner SANDBOX_FOLDER");
  process.exit(2);
}
await main(folder);
process.exit(0);
