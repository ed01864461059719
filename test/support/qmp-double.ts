import { closeSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { QmpFailure, VmmDouble } from "./vmm-double.ts";
import { receiveDescriptors } from "./receive-descriptors.ts";

/** What QEMU 7.2 of Debian 12 says first. */
const greeting = { QMP: { version: { qemu: { micro: 22, minor: 2, major: 7 }, package: "Debian 1:7.2+dfsg-7+deb12u18+b3" }, capabilities: ["oob"] } };

/** How a {@link QmpDouble} misbehaves. */
export interface QmpDoubleOptions {
  /** False: accepts connections and says nothing. Default true. */
  readonly greets?: boolean;
}

interface Connection {
  readonly socket: Socket;
  negotiated: boolean;
  buffered: Buffer;
  /** Descriptors that came and that no command has taken. */
  readonly fds: number[];
}

/**
 * The other side of a QMP socket: greets, negotiates, matches ids and refuses what QEMU refuses, with
 * its classes and texts (test/integration/qmp-double.test.ts compares the two). Serves one connection
 * after the other, as QEMU does.
 */
export class QmpDouble {
  /** The machine behind the monitor; it lives on when a connection ends. */
  readonly vmm = new VmmDouble((event, data) => this.emit(event, data));
  /** Names of the commands received, in order. */
  readonly commands: string[] = [];
  readonly #server: Server;
  readonly #greets: boolean;
  readonly #waiting: Socket[] = [];
  readonly #refused = new Set<string>();
  readonly #held = new Map<string, (() => void)[]>();
  #connection: Connection | undefined;

  private constructor(server: Server, options: QmpDoubleOptions) {
    this.#server = server;
    this.#greets = options.greets ?? true;
    server.on("connection", (socket) => {
      socket.on("error", () => { /* the client has gone; close follows */ });
      this.#waiting.push(socket);
      this.#serveNext();
    });
  }

  /** Listens on a new unix socket, or on a listening descriptor that was inherited. */
  static async listen(at: { readonly path: string } | { readonly fd: number }, options: QmpDoubleOptions = {}): Promise<QmpDouble> {
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true });
    const double = new QmpDouble(server, options);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(at, resolve);
    });
    return double;
  }

  /** Keeps back the answers to a command until the returned function is called. */
  hold(command: string): () => void {
    this.#held.set(command, []);
    return () => {
      const answers = this.#held.get(command) ?? [];
      this.#held.delete(command);
      for (const answer of answers) answer();
    };
  }

  /** Fails the next such command, as QEMU may for reasons of its own. */
  refuse(command: string): void {
    this.#refused.add(command);
  }

  emit(event: string, data?: unknown): void {
    this.send(JSON.stringify({ timestamp: { seconds: 1, microseconds: 0 }, event, ...(data !== undefined && { data }) }) + "\r\n");
  }

  /** Sends bytes as they are to the present client; none is fine. */
  send(bytes: string | Uint8Array): void {
    this.#connection?.socket.write(bytes);
  }

  /** Ends the present connection. */
  drop(): void {
    this.#connection?.socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#waiting.splice(0)) socket.destroy();
    this.drop();
    this.vmm.close();
    await closed;
  }

  #serveNext(): void {
    if (this.#connection !== undefined) return;
    const socket = this.#waiting.shift();
    if (socket === undefined) return;
    const connection: Connection = { socket, negotiated: false, buffered: Buffer.alloc(0), fds: [] };
    this.#connection = connection;
    socket.once("close", () => this.#end(connection));
    if (!this.#greets) return;
    this.send(JSON.stringify(greeting) + "\r\n");
    receiveDescriptors(socket, (bytes, fds) => {
      connection.fds.push(...fds);
      this.#receive(connection, bytes);
    }, () => socket.destroy());
  }

  #end(connection: Connection): void {
    for (const fd of connection.fds) closeSync(fd);
    this.#connection = undefined;
    this.#serveNext();
  }

  #receive(connection: Connection, bytes: Buffer): void {
    connection.buffered = Buffer.concat([connection.buffered, bytes]);
    for (let end = connection.buffered.indexOf(10); end !== -1; end = connection.buffered.indexOf(10)) {
      const line = connection.buffered.subarray(0, end).toString();
      connection.buffered = connection.buffered.subarray(end + 1);
      if (line.trim() !== "") this.#answer(connection, line);
    }
  }

  #answer(connection: Connection, line: string): void {
    let id: unknown;
    let command = "";
    let reply: Record<string, unknown>;
    try {
      const request = parseRequest(line);
      id = request["id"];
      command = commandOf(request);
      this.commands.push(command);
      reply = { return: this.#execute(connection, command, request["arguments"] as Record<string, unknown> | undefined) }; // commandOf() has checked it
    } catch (error) {
      if (!(error instanceof QmpFailure)) throw error;
      reply = { error: { class: error.errorClass, desc: error.message } };
    }
    const send = (): void => { connection.socket.write(JSON.stringify({ ...reply, ...(id !== undefined && { id }) }) + "\r\n"); };
    const held = this.#held.get(command);
    if (held === undefined) send();
    else held.push(send);
    if (command === "quit") connection.socket.end();
  }

  #execute(connection: Connection, command: string, given: Record<string, unknown> = {}): unknown {
    if (command === "qmp_capabilities") {
      if (connection.negotiated) throw new QmpFailure("Capabilities negotiation is already complete, command ignored", "CommandNotFound");
      connection.negotiated = true;
      return {};
    }
    if (!connection.negotiated) throw new QmpFailure("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound");
    if (this.#refused.delete(command)) {
      for (const fd of connection.fds.splice(0)) closeSync(fd);
      throw new QmpFailure("refused by the test");
    }
    return this.vmm.execute(command, given, () => connection.fds.shift());
  }
}

function parseRequest(line: string): Record<string, unknown> {
  let request: unknown;
  try {
    request = JSON.parse(line);
  } catch {
    throw new QmpFailure(`JSON parse error, invalid keyword '${/[a-z]+/.exec(line)?.[0] ?? ""}'`);
  }
  if (typeof request !== "object" || request === null || Array.isArray(request)) throw new QmpFailure("QMP input must be a JSON object");
  return request as Record<string, unknown>; // an object, just checked
}

function commandOf(request: Record<string, unknown>): string {
  for (const [member, value] of Object.entries(request)) {
    if (member === "execute" && typeof value !== "string") throw new QmpFailure("QMP input member 'execute' must be a string");
    if (member === "arguments" && (typeof value !== "object" || value === null || Array.isArray(value))) throw new QmpFailure("QMP input member 'arguments' must be an object");
    if (!["execute", "arguments", "id"].includes(member)) throw new QmpFailure(`QMP input member '${member}' is unexpected`);
  }
  if (typeof request["execute"] !== "string") throw new QmpFailure("QMP input lacks member 'execute'");
  return request["execute"];
}
