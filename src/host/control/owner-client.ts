import { RuntimeError } from "../../shared/base/errors.ts";
import { connectUnix } from "../../shared/linux/unix-socket.ts";
import type { Owner } from "../../shared/protocol/gen/owner_pb.ts";
import type { Task } from "../../shared/protocol/gen/containerd/task_pb.ts";
import { TtrpcClient, createServiceClient, type ServiceClient } from "../../shared/ttrpc/client.ts";
import { sandboxPaths, type StateFolders } from "../store/paths.ts";
import { loadOwnerService, loadTaskService } from "./owner-protocol.ts";

/** What an owner serves, over one connection. */
interface OwnerConnection {
  readonly task: ServiceClient<typeof Task>;
  readonly owner: ServiceClient<typeof Owner>;
  readonly closed: Promise<unknown>;
  keepAlive(keep: boolean): void;
  /** True as soon as the connection has ended. */
  readonly over: boolean;
  close(): void;
}

/**
 * The caller's end of a sandbox: its owner now, and the next one when that dies. A call by `task` or
 * `owner` fails with the connection (reason `connection_lost`); {@link call} repeats it.
 */
export interface OwnerClient {
  readonly task: ServiceClient<typeof Task>;
  readonly owner: ServiceClient<typeof Owner>;
  /** Resolves when the present owner has gone. */
  readonly closed: Promise<unknown>;
  /** Whether the open connection alone keeps this program running, as it does at first. */
  keepAlive(keep: boolean): void;
  /**
   * Makes a call, and again when the owner died before it answered: it may have been done by then.
   * `settled` says what an error of a repeated call means: a result of that call, or undefined for an error.
   */
  call<T>(work: (client: OwnerClient) => Promise<T>, settled?: (error: RuntimeError) => { readonly result: T } | undefined): Promise<T>;
  /** Connects with the next owner if the present one has gone. @throws RuntimeError `unavailable` (reason `no_owner`) when the sandbox is gone with it. */
  reconnect(): Promise<void>;
  close(): void;
}

/** An owner that dies again and again is not called for ever. */
const maxRepeats = 20;

/** Options of {@link connectOwner}. */
export interface ConnectOptions {
  /** Start an owner in the place of one that has died. Default true. */
  readonly revive?: boolean;
}

/**
 * Connects to a sandbox's owner. One that has died is started again.
 * @throws RuntimeError `unavailable` (reason `no_owner`) when there is no such sandbox any more.
 */
export async function connectOwner(folders: StateFolders, sandboxId: string, options: ConnectOptions = {}): Promise<OwnerClient> {
  return new LastingClient(folders, sandboxId, await connect(folders, sandboxId, options));
}

/** True when a call ended because its connection did, and not by an answer. */
export function isConnectionLost(error: unknown): boolean {
  return RuntimeError.is(error, "unavailable") && error.reason === "connection_lost";
}

class LastingClient implements OwnerClient {
  readonly #folders: StateFolders;
  readonly #sandboxId: string;
  #connection: OwnerConnection;
  #reconnecting: Promise<void> | undefined;
  #keepAlive = true;
  #closed = false;

  constructor(folders: StateFolders, sandboxId: string, connection: OwnerConnection) {
    this.#folders = folders;
    this.#sandboxId = sandboxId;
    this.#connection = connection;
  }

  get task(): ServiceClient<typeof Task> { return this.#connection.task; }
  get owner(): ServiceClient<typeof Owner> { return this.#connection.owner; }
  get closed(): Promise<unknown> { return this.#connection.closed; }

  async call<T>(work: (client: OwnerClient) => Promise<T>, settled: (error: RuntimeError) => { readonly result: T } | undefined = () => undefined): Promise<T> {
    for (let repeats = 0; ; repeats++) {
      const connection = this.#connection;
      try {
        return await work(this);
      } catch (error) {
        if (this.#closed || repeats === maxRepeats || !RuntimeError.is(error)) throw error;
        const known = repeats > 0 ? settled(error) : undefined;
        if (known !== undefined) return known.result;
        // The owner itself may have lost a connection, and say so over a living one.
        if (!isConnectionLost(error) || !connection.over) throw error;
        await this.reconnect();
      }
    }
  }

  async reconnect(): Promise<void> {
    if (!this.#connection.over || this.#closed) return;
    this.#reconnecting ??= connect(this.#folders, this.#sandboxId).then((connection) => {
      this.#connection = connection;
      connection.keepAlive(this.#keepAlive);
      if (this.#closed) connection.close();
    }).finally(() => { this.#reconnecting = undefined; });
    await this.#reconnecting;
  }

  keepAlive(keep: boolean): void {
    this.#keepAlive = keep;
    this.#connection.keepAlive(keep);
  }

  close(): void {
    this.#closed = true;
    this.#connection.close();
  }
}

async function connect(folders: StateFolders, sandboxId: string, { revive = true }: ConnectOptions = {}): Promise<OwnerConnection> {
  const { ownerSocket } = sandboxPaths(folders, sandboxId);
  const { Owner: service } = await loadOwnerService();
  try {
    return connectionOver(await connectUnix(ownerSocket), service);
  } catch (error) {
    if (!revive) throw new RuntimeError("unavailable", `connect to the owner of sandbox "${sandboxId}"`, { cause: error, reason: "no_owner" });
    // Loaded when it is needed: a call to a living owner does without.
    const { reviveOwner } = await import("./revive-owner.ts");
    return connectionOver(await reviveOwner(folders, sandboxId), service);
  }
}

function connectionOver(socket: Awaited<ReturnType<typeof connectUnix>>, service: typeof Owner): OwnerConnection {
  const client = TtrpcClient.over(socket);
  let over = false;
  void client.closed.then(() => { over = true; });
  return {
    task: taskClient(client),
    owner: createServiceClient(service, client),
    closed: client.closed,
    keepAlive: (keep) => { if (keep) socket.ref(); else socket.unref(); },
    get over() { return over; },
    close: () => client.close(),
  };
}

/** Reads the descriptors with the first call. */
function taskClient(client: TtrpcClient): ServiceClient<typeof Task> {
  let loading: Promise<ServiceClient<typeof Task>> | undefined;
  const load = async (): Promise<ServiceClient<typeof Task>> => createServiceClient((await loadTaskService()).Task, client);
  return new Proxy({} as ServiceClient<typeof Task>, { // every method of Task is unary: a call that loads first is of the same type
    get: (_target, name: keyof ServiceClient<typeof Task>) => async (...args: Parameters<ServiceClient<typeof Task>[typeof name]>): Promise<unknown> => {
      const task = await (loading ??= load());
      return Reflect.apply(task[name], task, args);
    },
  });
}
