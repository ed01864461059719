import { create, fromBinary, toBinary, type DescMethod, type DescService, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import type { Duplex } from "node:stream";
import type { CallPart } from "../base/call-parts.ts";
import { orAbandon, type WaitOptions } from "../base/deadline.ts";
import { RuntimeError } from "../base/errors.ts";
import { FrameConnection, connectionLost } from "./connection.ts";
import { frameFlag, frameType, type Frame } from "./frame.ts";
import { decodeResponse, encodeRequest } from "./message.ts";
import { MessageQueue } from "./message-queue.ts";

/** Options of one call. The time limit goes to the server too; ttRPC has no cancel message, so an abandoned unary call goes on there and its answer is dropped. */
export interface CallOptions extends WaitOptions {
  readonly metadata?: Readonly<Record<string, string>>;
  /** Is told where the time of a unary call went, if the server says; what it says is not checked. */
  readonly onParts?: (parts: readonly CallPart[]) => void;
}

/** The calls of a service: unary, or streams as async iterables. */
export type ServiceClient<S extends DescService> = {
  readonly [K in keyof S["method"]]: MethodClient<S["method"][K]>;
};
type MethodClient<M extends DescMethod> =
  M["methodKind"] extends "unary" ? (request: MessageInitShape<M["input"]>, options?: CallOptions) => Promise<MessageShape<M["output"]>>
  : M["methodKind"] extends "server_streaming" ? (request: MessageInitShape<M["input"]>, options?: CallOptions) => AsyncIterable<MessageShape<M["output"]>>
  : M["methodKind"] extends "client_streaming" ? (requests: AsyncIterable<MessageInitShape<M["input"]>>, options?: CallOptions) => Promise<MessageShape<M["output"]>>
  : (requests: AsyncIterable<MessageInitShape<M["input"]>>, options?: CallOptions) => AsyncIterable<MessageShape<M["output"]>>;

/** One call in flight. */
interface Call {
  /** Data frames of a streaming answer. */
  readonly messages: MessageQueue;
  readonly response: PromiseWithResolvers<Uint8Array>;
  readonly onParts: CallOptions["onParts"];
}

/** The client end of a ttRPC connection. */
export class TtrpcClient {
  readonly #connection: FrameConnection;
  readonly #calls = new Map<number, Call>();
  /** Odd and increasing: ids of streams the client opened. */
  #nextStreamId = 1;

  private constructor(stream: Duplex) {
    this.#connection = new FrameConnection(stream, (frame) => this.#receive(frame));
    void this.#connection.ended.then((error) => {
      for (const call of this.#calls.values()) settle(call, connectionLost(error));
      this.#calls.clear();
    });
  }

  static over(stream: Duplex): TtrpcClient {
    return new TtrpcClient(stream);
  }

  /** Resolves when the connection is over, with the error that ended it if there was one. */
  get closed(): Promise<RuntimeError | undefined> {
    return this.#connection.ended;
  }

  /** Ends the connection; every call in flight fails with `unavailable`. */
  close(): void {
    this.#connection.end();
  }

  /** Opens a call. The request's flags say whether more messages follow. */
  async open(method: DescMethod, payload: Uint8Array, moreToCome: boolean, options: CallOptions): Promise<{ readonly streamId: number; readonly call: Call }> {
    if (this.#connection.over) throw connectionLost(undefined);
    const streamId = this.#nextStreamId;
    this.#nextStreamId += 2;
    const call: Call = { messages: new MessageQueue(), response: Promise.withResolvers<Uint8Array>(), onParts: options.onParts };
    call.response.promise.catch(() => { /* a streaming call may never look at it */ });
    this.#calls.set(streamId, call);
    const flags = method.methodKind === "unary" ? 0 : moreToCome ? frameFlag.remoteOpen : frameFlag.remoteClosed;
    try {
      await this.#connection.send(streamId, frameType.request, flags, encodeRequest({
        service: method.parent.typeName,
        method: method.name,
        payload,
        timeoutNanos: options.timeoutMs === undefined || options.timeoutMs === Infinity ? 0n : BigInt(Math.max(1, Math.round(options.timeoutMs * 1e6))),
        metadata: Object.entries(options.metadata ?? {}),
      }));
    } catch (error) {
      this.forget(streamId);
      throw error;
    }
    return { streamId, call };
  }

  /** Sends one more message of a streaming request. */
  async sendData(streamId: number, data: Uint8Array): Promise<void> {
    await this.#connection.send(streamId, frameType.data, 0, data);
  }

  /** No more messages of a streaming request. */
  async closeSend(streamId: number): Promise<void> {
    if (!this.#connection.over) await this.#connection.send(streamId, frameType.data, frameFlag.remoteClosed | frameFlag.noData, new Uint8Array());
  }

  /** Late answers of that call are dropped from now on. */
  forget(streamId: number): void {
    this.#calls.delete(streamId);
  }

  #receive(frame: Frame): void {
    const call = this.#calls.get(frame.streamId);
    if (call === undefined) return; // an answer nobody waits for any more, or a stream that never was
    if (frame.oversizedBytes !== undefined) {
      this.#finish(frame.streamId, call, new RuntimeError("resource_exhausted", `answer of ${frame.oversizedBytes} bytes`));
    } else if (frame.type === frameType.response) {
      const { error, payload, parts } = decodeResponse(frame.data);
      if (parts.length > 0) call.onParts?.(parts);
      this.#finish(frame.streamId, call, error, payload);
    } else if (frame.type === frameType.data) {
      if ((frame.flags & frameFlag.noData) === 0 && !call.messages.push(frame.data)) this.#calls.delete(frame.streamId);
      if ((frame.flags & frameFlag.remoteClosed) !== 0) this.#finish(frame.streamId, call, undefined);
    }
  }

  #finish(streamId: number, call: Call, error: RuntimeError | undefined, payload: Uint8Array = new Uint8Array()): void {
    this.#calls.delete(streamId);
    settle(call, error, payload);
  }
}

function settle(call: Call, error: RuntimeError | undefined, payload: Uint8Array = new Uint8Array()): void {
  call.messages.end(error);
  if (error === undefined) call.response.resolve(payload);
  else call.response.reject(error);
}

/** The typed calls of a service over a connection. */
export function createServiceClient<S extends DescService>(service: S, client: TtrpcClient): ServiceClient<S> {
  const methods = Object.entries(service.method).map(([name, method]) => [name, methodClient(client, method)]);
  return Object.fromEntries(methods) as ServiceClient<S>; // one entry per method of the descriptor, of the kind it says
}

function methodClient(client: TtrpcClient, method: DescMethod): unknown {
  const encode = (message: MessageInitShape<DescMethod["input"]>): Uint8Array => toBinary(method.input, create(method.input, message));
  switch (method.methodKind) {
    case "unary":
      return async (request: MessageInitShape<DescMethod["input"]>, options: CallOptions = {}) => unary(client, method, encode(request), options);
    case "server_streaming":
      return (request: MessageInitShape<DescMethod["input"]>, options: CallOptions = {}) => streamAnswers(client, method, single(request), encode, options);
    case "client_streaming":
      return async (requests: AsyncIterable<MessageInitShape<DescMethod["input"]>>, options: CallOptions = {}) => collectAnswer(client, method, requests, encode, options);
    case "bidi_streaming":
      return (requests: AsyncIterable<MessageInitShape<DescMethod["input"]>>, options: CallOptions = {}) => streamAnswers(client, method, requests, encode, options);
  }
}

type Encode = (message: MessageInitShape<DescMethod["input"]>) => Uint8Array;
type Requests = AsyncIterable<MessageInitShape<DescMethod["input"]>>;

async function unary(client: TtrpcClient, method: DescMethod, payload: Uint8Array, options: CallOptions): Promise<unknown> {
  const { streamId, call } = await client.open(method, payload, false, options);
  try {
    return fromBinary(method.output, await orAbandon(call.response.promise, method.name, options));
  } finally {
    client.forget(streamId);
  }
}

async function* streamAnswers(client: TtrpcClient, method: DescMethod, requests: Requests, encode: Encode, options: CallOptions): AsyncGenerator<unknown> {
  const { streamId, call, sending } = await openStream(client, method, requests, encode, options);
  const onAbort = (): void => call.messages.end(new RuntimeError("canceled", `${method.name}: canceled`, { cause: options.signal?.reason }));
  options.signal?.addEventListener("abort", onAbort, { once: true });
  if (options.signal?.aborted) onAbort();
  try {
    for await (const message of call.messages) yield fromBinary(method.output, message);
  } finally {
    options.signal?.removeEventListener("abort", onAbort);
    client.forget(streamId);
    sending.stop();
  }
}

async function collectAnswer(client: TtrpcClient, method: DescMethod, requests: Requests, encode: Encode, options: CallOptions): Promise<unknown> {
  const { streamId, call, sending } = await openStream(client, method, requests, encode, options);
  try {
    return fromBinary(method.output, await orAbandon(call.response.promise, method.name, options));
  } finally {
    client.forget(streamId);
    sending.stop();
  }
}

/** Opens a streaming call. With one request it goes in the opening frame; a stream of requests follows as data. */
async function openStream(client: TtrpcClient, method: DescMethod, requests: Requests, encode: Encode, options: CallOptions): Promise<{ streamId: number; call: Call; sending: { stop(): void } }> {
  if (method.methodKind === "server_streaming") {
    const payloads: Uint8Array[] = [];
    for await (const request of requests) payloads.push(encode(request));
    return { ...await client.open(method, payloads[0] ?? new Uint8Array(), false, options), sending: { stop: () => undefined } };
  }
  const opened = await client.open(method, new Uint8Array(), true, options);
  const iterator = requests[Symbol.asyncIterator]();
  let stopped = false;
  const send = async (): Promise<void> => {
    for (let next = await iterator.next(); next.done !== true && !stopped; next = await iterator.next()) await client.sendData(opened.streamId, encode(next.value));
    await client.closeSend(opened.streamId);
  };
  send().catch((error: unknown) => settle(opened.call, RuntimeError.wrap(error, `${method.name}: send`)));
  return {
    ...opened,
    sending: {
      stop: () => {
        stopped = true;
        void iterator.return?.()?.catch(() => undefined); // the caller has left: its source's own end is of no interest
        void client.closeSend(opened.streamId).catch(() => undefined); // tells the server that we have left; a closed connection does too
      },
    },
  };
}

async function* single<T>(value: T): AsyncGenerator<T> {
  yield value;
}
