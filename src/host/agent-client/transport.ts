import type { Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { Deadline, orAbandon, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError, describeError, isErrnoException } from "../../shared/base/errors.ts";
import { PacketLink } from "../../shared/channel/link.ts";
import { PacketParser, encodeHello, sessionIdBytes } from "../../shared/channel/packet.ts";
import { kernelRandomBytes } from "../../shared/linux/random.ts";
import { connectUnix } from "../../shared/linux/unix-socket.ts";

/**
 * How long the guest may take to answer a greeting before it is greeted again: it may have come up in
 * between, or have dropped it together with what a host before us left. Doubled each time, for a slow guest.
 */
const firstAnswerTimeoutMs = 250, maxAnswerTimeoutMs = 2_000;
/** The same for a guest that is up and busy: each greeting is more work for it. */
const maxBusyAnswerTimeoutMs = 16_000;
const retryMs = 20;

/** Options of a connection with the agent. */
export interface ConnectOptions extends WaitOptions {
  /** The guest is up, and may have much to do. Default: it may still be starting. */
  readonly busy?: boolean;
  /** The guest goes on from a template, and no host has been there: it is spared the zeros of the first greeting. Default: false. */
  readonly first?: boolean;
}

/** A session on one port of the VM. */
export interface PortSession {
  readonly link: PacketLink;
  /** Resolves when the connection is over, with why. */
  readonly closed: Promise<RuntimeError | undefined>;
  close(): void;
}

/** Connects to a port's socket and greets until the guest answers. @throws RuntimeError `deadline_exceeded`, `canceled`, or `unavailable` when nobody listens on the socket. */
export async function openPort(socketPath: string, options: ConnectOptions): Promise<PortSession> {
  const deadline = Deadline.after(options.timeoutMs);
  const longestMs = options.busy === true ? maxBusyAnswerTimeoutMs : maxAnswerTimeoutMs;
  let first = options.first === true;
  for (let answerTimeoutMs = firstAnswerTimeoutMs; ; first = false, answerTimeoutMs = Math.min(2 * answerTimeoutMs, longestMs)) {
    let socket: Socket | undefined;
    try {
      socket = await connectUnix(socketPath);
      return await greet(socket, first, { timeoutMs: Math.min(answerTimeoutMs, deadline.remainingMs), ...(options.signal && { signal: options.signal }) });
    } catch (error) {
      socket?.destroy();
      const full = socket === undefined && isBacklogFull(error);
      if (socket === undefined && !full && !deadline.expired) throw error;
      if (full) await delay(Math.min(answerTimeoutMs, deadline.remainingMs), undefined, { signal: options.signal }).catch(() => undefined);
      else if (!RuntimeError.is(error, "deadline_exceeded")) await delay(Math.min(retryMs, deadline.remainingMs));
      // Given up, it must not greet whoever has the socket's place next: QEMU takes one connection.
      if (!deadline.expired && options.signal?.aborted !== true) continue;
      if (full) throw new RuntimeError("deadline_exceeded", "wait for the agent: QEMU takes no connections", { cause: error });
      throw RuntimeError.wrap(error, "wait for the agent");
    }
  }
}

/** A QEMU that stands still takes no connections; after a few nobody can even wait for it. */
function isBacklogFull(error: unknown): boolean {
  return RuntimeError.is(error) && isErrnoException(error.cause, "EAGAIN");
}

async function greet(socket: Socket, first: boolean, options: WaitOptions): Promise<PortSession> {
  const sessionId = kernelRandomBytes(sessionIdBytes);
  sessionId[0] = 1 + (sessionId[0] ?? 0) % 255; // not 0: see encodeHello
  const parser = PacketParser.forHost(sessionId);
  const link = new PacketLink(socket, sessionId);
  const answered = Promise.withResolvers<void>();
  const closed = Promise.withResolvers<RuntimeError | undefined>();
  const end = (error?: RuntimeError): void => {
    socket.destroy();
    link.close();
    closed.resolve(error);
    answered.reject(error ?? new RuntimeError("unavailable", "the agent's port closed"));
  };
  answered.promise.catch(() => { /* awaited below, and of no interest after that */ });
  socket.on("data", (chunk: Buffer) => {
    for (const found of parser.push(chunk)) {
      if (found.type === "session") answered.resolve();
      else if (found.type === "packet") link.deliver(found.payload);
      else end(new RuntimeError("data_loss", "the guest sent bytes that are no packet"));
    }
  });
  socket.on("drain", () => link.drained());
  socket.on("error", (error) => end(new RuntimeError("unavailable", `agent port: ${describeError(error)}`)));
  socket.on("end", () => end(new RuntimeError("unavailable", "the VM closed the agent's port"))); // half-open sockets give no "close" for it
  socket.on("close", () => end(new RuntimeError("unavailable", "the agent's port closed")));
  socket.write(encodeHello(sessionId, first));
  await orAbandon(answered.promise, "greet the agent", options);
  return { link, closed: closed.promise, close: () => end() };
}
