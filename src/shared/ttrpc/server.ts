import { create, fromBinary, toBinary, type DescMethod, type DescService, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import type { Duplex } from "node:stream";
import { measureParts } from "../base/call-parts.ts";
import { RuntimeError } from "../base/errors.ts";
import { FrameConnection, connectionLost } from "./connection.ts";
import { frameFlag, frameType, maxFrameBytes, type Frame } from "./frame.ts";
import { decodeRequest, encodeResponse, traceHeader, type WireRequest } from "./message.ts";
import { MessageQueue } from "./message-queue.ts";

/** What a handler knows of its call. */
export interface CallContext {
  /** Aborts when the client's connection ends. The client's time limit does not end the call: ttRPC's reference server does not either, and a late answer is dropped by the client. */
  readonly signal: AbortSignal;
  readonly metadata: ReadonlyMap<string, string>;
}

type Awaitable<T> = T | Promise<T>;
/** The handlers of a service, one per method. */
export type ServiceImplementation<S extends DescService> = {
  readonly [K in keyof S["method"]]: MethodHandler<S["method"][K]>;
};
type MethodHandler<M extends DescMethod> =
  M["methodKind"] extends "unary" ? (request: MessageShape<M["input"]>, context: CallContext) => Awaitable<MessageInitShape<M["output"]>>
  : M["methodKind"] extends "server_streaming" ? (request: MessageShape<M["input"]>, context: CallContext) => AsyncIterable<MessageInitShape<M["output"]>>
  : M["methodKind"] extends "client_streaming" ? (requests: AsyncIterable<MessageShape<M["input"]>>, context: CallContext) => Awaitable<MessageInitShape<M["output"]>>
  : (requests: AsyncIterable<MessageShape<M["input"]>>, context: CallContext) => AsyncIterable<MessageInitShape<M["output"]>>;

/** A handler after its types have been left behind. */
type AnyHandler = (input: unknown, context: CallContext) => unknown;
interface RegisteredMethod { readonly method: DescMethod; readonly handler: AnyHandler }

/** Calls one connection may have in flight; more are refused with `resource_exhausted`. */
const maxConcurrentCalls = 4096;

/** Serves ttRPC calls on any number of connections. */
export class TtrpcServer {
  readonly #services = new Map<string, ReadonlyMap<string, RegisteredMethod>>();

  /** Adds a service; calls of its methods run concurrently. */
  addService<S extends DescService>(service: S, implementation: Partial<ServiceImplementation<S>>): void {
    // The implementation's type pairs every method of the descriptor with a handler of its kind.
    const handlers = implementation as Readonly<Record<string, AnyHandler | undefined>>;
    const methods = Object.entries(service.method).flatMap(([localName, method]): [string, RegisteredMethod][] => {
      const handler = handlers[localName];
      return handler === undefined ? [] : [[method.name, { method, handler: handler.bind(implementation) }]];
    });
    this.#services.set(service.typeName, new Map(methods));
  }

  /** Serves one connection; resolves when it is over. @throws RuntimeError when an error ended it. */
  async serve(stream: Duplex): Promise<void> {
    const connection = new ServerConnection(stream, (request) => this.#find(request));
    const error = await connection.ended;
    if (error !== undefined) throw error;
  }

  #find({ service, method }: WireRequest): RegisteredMethod {
    const methods = this.#services.get(service);
    if (methods === undefined) throw new RuntimeError("unimplemented", `service ${service}`);
    const registered = methods.get(method);
    if (registered === undefined) throw new RuntimeError("unimplemented", `method ${method}`);
    return registered;
  }
}

/** One client's connection: its calls in flight. */
class ServerConnection {
  readonly #connection: FrameConnection;
  readonly #find: (request: WireRequest) => RegisteredMethod;
  readonly #gone = new AbortController();
  /** Incoming messages of calls that stream their requests. */
  readonly #incoming = new Map<number, MessageQueue>();
  #callCount = 0;

  constructor(stream: Duplex, find: (request: WireRequest) => RegisteredMethod) {
    this.#find = find;
    this.#connection = new FrameConnection(stream, (frame) => this.#receive(frame));
    void this.#connection.ended.then((error) => {
      for (const queue of this.#incoming.values()) queue.end(connectionLost(error));
      this.#gone.abort(connectionLost(error));
    });
  }

  get ended(): Promise<RuntimeError | undefined> {
    return this.#connection.ended;
  }

  #receive(frame: Frame): void {
    if (frame.type === frameType.data) this.#receiveData(frame);
    // Other types are ignored, as the reference server does: a newer client may send them.
    if (frame.type === frameType.request) void this.#call(frame);
  }

  #receiveData(frame: Frame): void {
    const queue = this.#incoming.get(frame.streamId);
    if (queue === undefined) return;
    if (frame.oversizedBytes !== undefined) queue.end(oversized(frame.oversizedBytes));
    else if ((frame.flags & frameFlag.noData) === 0) queue.push(frame.data);
    if ((frame.flags & frameFlag.remoteClosed) !== 0) queue.end();
  }

  async #call(frame: Frame): Promise<void> {
    const { streamId } = frame;
    this.#callCount++;
    try {
      const payload = await this.#handle(frame);
      await this.#connection.send(streamId, frameType.response, 0, payload);
    } catch (error) {
      if (!this.#connection.over) await this.#connection.send(streamId, frameType.response, 0, encodeResponse(error, new Uint8Array())).catch(() => undefined); // the client has gone meanwhile
    } finally {
      this.#callCount--;
      this.#incoming.delete(streamId);
    }
  }

  /** Runs one call to its end and returns its last frame's data. */
  async #handle(frame: Frame): Promise<Uint8Array> {
    if (frame.oversizedBytes !== undefined) throw oversized(frame.oversizedBytes);
    if (frame.streamId % 2 !== 1) throw new RuntimeError("invalid_argument", "StreamID must be odd for client initiated streams");
    if (this.#callCount > maxConcurrentCalls) throw new RuntimeError("resource_exhausted", `more than ${maxConcurrentCalls} calls in flight on one connection`);
    const request = decode(() => decodeRequest(frame.data), "invalid_argument", "unmarshal request error");
    const { method, handler } = this.#find(request);
    const context: CallContext = { signal: this.#gone.signal, metadata: new Map(request.metadata) };
    const input = this.#input(frame, method, request);
    if (method.methodKind === "unary" || method.methodKind === "client_streaming") {
      const work = async (): Promise<unknown> => handler(input, context);
      const { result, parts } = context.metadata.has(traceHeader) ? await measureParts(work) : { result: await work(), parts: [] };
      const message = create(method.output, result as MessageInitShape<DescMethod["output"]>); // what the handler's type promises
      return encodeResponse(undefined, toBinary(method.output, message), parts);
    }
    const answer = handler(input, context);
    for await (const message of answer as AsyncIterable<MessageInitShape<DescMethod["output"]>>) { // as above
      if (this.#connection.over) throw connectionLost(undefined);
      await this.#connection.send(frame.streamId, frameType.data, 0, toBinary(method.output, create(method.output, message)));
    }
    return new Uint8Array();
  }

  #input(frame: Frame, method: DescMethod, request: WireRequest): unknown {
    const parse = (bytes: Uint8Array): unknown => decode(() => fromBinary(method.input, bytes), "internal", "ttrpc: error unmarshalling payload");
    if (method.methodKind === "unary" || method.methodKind === "server_streaming") return parse(request.payload);
    const queue = new MessageQueue();
    this.#incoming.set(frame.streamId, queue);
    if (request.payload.length > 0) queue.push(request.payload);
    if ((frame.flags & frameFlag.remoteOpen) === 0) queue.end();
    return parseAll(queue, parse);
  }
}

async function* parseAll(queue: MessageQueue, parse: (bytes: Uint8Array) => unknown): AsyncGenerator<unknown> {
  for await (const bytes of queue) yield parse(bytes);
}

function decode<T>(read: () => T, code: "invalid_argument" | "internal", step: string): T {
  try {
    return read();
  } catch (error) {
    throw new RuntimeError(code, step, { cause: error });
  }
}

function oversized(length: number): RuntimeError {
  return new RuntimeError("resource_exhausted", `message length ${length} exceed maximum message size of ${maxFrameBytes}`);
}
