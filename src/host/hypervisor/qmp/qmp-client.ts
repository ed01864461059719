import type { Socket } from "node:net";
import { orAbandon, type WaitOptions } from "../../../shared/base/deadline.ts";
import { RuntimeError, type ErrorCode } from "../../../shared/base/errors.ts";
import { PushQueue } from "../../../shared/base/push-queue.ts";
import { sendDescriptor } from "../../../shared/linux/send-descriptor.ts";
import { connectUnix } from "../../../shared/linux/unix-socket.ts";

/** An event of QEMU's (https://www.qemu.org/docs/master/interop/qmp-spec.html). */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** Options of one command. */
export interface ExecuteOptions extends WaitOptions {
  /** A descriptor sent with the command (for getfd and add-fd); it stays open here. */
  readonly fd?: number;
}

/** Longest reply or event; query-* answers are some kilobytes. */
const maxLineBytes = 16 * 1024 * 1024;
/** QEMU answers from its main loop, which a slow disk or a busy host can hold for seconds. */
const defaultTimeoutMs = 30_000;

/** QMP's error classes. Almost everything is a GenericError, so the code says little; the text says what. */
const errorCodes: Readonly<Record<string, ErrorCode>> = {
  CommandNotFound: "unimplemented",
  DeviceNotActive: "failed_precondition",
  DeviceNotFound: "not_found",
  KVMMissingCap: "unimplemented",
  GenericError: "internal",
};

interface Listener { readonly onEvent: (event: QmpEvent) => void; readonly onEnd: (why: RuntimeError) => void }
interface Reply { readonly return?: unknown; readonly error?: { readonly class?: string; readonly desc?: string } }

/** A connection to QEMU's monitor. Commands may overlap; replies are matched by id. */
export class QmpClient {
  readonly #socket: Socket;
  readonly #pending = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #greeting = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<RuntimeError>();
  readonly #listeners = new Set<Listener>();
  #nextId = 1;
  #over: RuntimeError | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#greeting.promise.catch(() => { /* awaited by connect() */ });
    let line: Buffer[] = [];
    let lineBytes = 0;
    socket.on("data", (chunk: Buffer) => {
      for (let newline = chunk.indexOf(10); newline !== -1; newline = chunk.indexOf(10)) {
        this.#receive(Buffer.concat([...line, chunk.subarray(0, newline)]));
        line = [];
        lineBytes = 0;
        chunk = chunk.subarray(newline + 1);
      }
      line.push(chunk);
      lineBytes += chunk.length;
      if (lineBytes > maxLineBytes) this.#end(new RuntimeError("data_loss", `QMP: a line of more than ${maxLineBytes} bytes`));
    });
    socket.on("error", (error) => this.#end(new RuntimeError("unavailable", "QMP connection", { cause: error })));
    // QEMU never leaves one direction open: the end of what it sends is the end of the monitor.
    socket.on("end", () => this.#end(new RuntimeError("unavailable", "QMP connection closed by QEMU")));
    socket.on("close", () => this.#end(new RuntimeError("unavailable", "QMP connection closed")));
  }

  /** Connects, takes the greeting and leaves capabilities negotiation. */
  static async connect(path: string, options: WaitOptions = {}): Promise<QmpClient> {
    const client = new QmpClient(await connectUnix(path));
    try {
      await orAbandon(client.#greeting.promise, "wait for QMP's greeting", { timeoutMs: defaultTimeoutMs, ...options });
      await client.execute("qmp_capabilities", {}, options);
      return client;
    } catch (error) {
      client.close();
      throw RuntimeError.wrap(error, "connect to QMP");
    }
  }

  /** Resolves when the connection is over, with why. */
  get closed(): Promise<RuntimeError> {
    return this.#closed.promise;
  }

  /** Runs a command and returns its answer. @throws RuntimeError with QEMU's text, `unavailable` when the connection ends first. */
  async execute(command: string, commandArguments: Readonly<Record<string, unknown>> = {}, options: ExecuteOptions = {}): Promise<unknown> {
    if (this.#over !== undefined) throw new RuntimeError("unavailable", `QMP ${command}`, { cause: this.#over });
    const id = this.#nextId++;
    const reply = Promise.withResolvers<unknown>();
    this.#pending.set(id, reply);
    const line = JSON.stringify({ execute: command, arguments: commandArguments, id }) + "\n";
    try {
      // A descriptor must travel with bytes of its command, past libuv, which knows no descriptors; commands
      // are small and QEMU reads them at once, so nothing of ours waits in libuv's queue before it.
      if (options.fd === undefined) this.#socket.write(line);
      else sendDescriptor(this.#socket, Buffer.from(line), options.fd);
      return await orAbandon(reply.promise, `QMP ${command}`, { timeoutMs: defaultTimeoutMs, ...options });
    } catch (error) {
      throw RuntimeError.wrap(error, `QMP ${command}`);
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Calls back for every event until the returned function is called. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    return this.#listen({ onEvent: listener, onEnd: () => { /* told by `closed` */ } });
  }

  /** Events that the filter lets through, from now on until the connection ends or the reader leaves. */
  events(filter: (event: QmpEvent) => boolean): AsyncGenerator<QmpEvent> {
    const queue = new PushQueue<QmpEvent>();
    // Here and not in the generator, whose body runs at the first read only.
    const stop = this.#listen({ onEvent: (event) => { if (filter(event)) queue.push(event); }, onEnd: () => queue.end() });
    const events = queue[Symbol.asyncIterator]();
    const leave = events.return.bind(events);
    events.return = async (value) => {
      stop();
      queue.end(); // a read that waits would hold the return up
      return leave(value);
    };
    return events;
  }

  /** Waits for one event. Call before the command that causes it. @throws RuntimeError `deadline_exceeded`, `unavailable`. */
  async nextEvent(what: string, filter: (event: QmpEvent) => boolean, options: WaitOptions = {}): Promise<QmpEvent> {
    const found = Promise.withResolvers<QmpEvent>();
    const stop = this.#listen({ onEvent: (event) => { if (filter(event)) found.resolve(event); }, onEnd: found.reject });
    try {
      return await orAbandon(found.promise, what, { timeoutMs: defaultTimeoutMs, ...options });
    } finally {
      stop();
    }
  }

  close(): void {
    this.#end(new RuntimeError("unavailable", "QMP connection closed by us"));
  }

  #receive(line: Buffer): void {
    if (line.length === 0) return;
    let message: unknown;
    try {
      message = JSON.parse(line.toString());
    } catch (error) {
      this.#end(new RuntimeError("data_loss", "QMP: not JSON", { cause: error }));
      return;
    }
    if (typeof message !== "object" || message === null) return;
    if ("QMP" in message) this.#greeting.resolve();
    else if ("event" in message && typeof message.event === "string") this.#emit({ event: message.event, data: "data" in message && typeof message.data === "object" && message.data !== null ? message.data as Record<string, unknown> : {} }); // a JSON object, just checked
    else if ("id" in message && typeof message.id === "number") this.#settle(message.id, message as Reply); // QEMU's, checked field by field there
  }

  #listen(listener: Listener): () => void {
    if (this.#over === undefined) this.#listeners.add(listener);
    else listener.onEnd(this.#over);
    return () => { this.#listeners.delete(listener); };
  }

  #emit(event: QmpEvent): void {
    for (const listener of [...this.#listeners]) listener.onEvent(event);
  }

  #settle(id: number, { return: value, error }: Reply): void {
    const reply = this.#pending.get(id);
    if (error === undefined) reply?.resolve(value);
    else reply?.reject(new RuntimeError(errorCodes[error.class ?? ""] ?? "internal", error.desc ?? "unknown QMP error"));
  }

  #end(why: RuntimeError): void {
    if (this.#over !== undefined) return;
    this.#over = why;
    this.#socket.destroy();
    this.#greeting.reject(why);
    for (const reply of this.#pending.values()) reply.reject(why);
    this.#pending.clear();
    for (const listener of this.#listeners) listener.onEnd(why);
    this.#listeners.clear();
    this.#closed.resolve(why);
  }
}
