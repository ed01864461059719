import type { DescService } from "@bufbuild/protobuf";
import type { CallPart } from "../../shared/base/call-parts.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { callCollector } from "../../shared/base/step-calls.ts";
import type { CallOptions, ServiceClient } from "../../shared/ttrpc/client.ts";
import { traceHeader } from "../../shared/ttrpc/message.ts";
import { checkReply, cleanGuestError, plausibleParts } from "./check-reply.ts";

/** A timer may be that much early. */
const timerErrorMs = 2;

type Call = (request: unknown, options?: CallOptions) => Promise<unknown> | AsyncIterable<unknown>;

/** The same calls, with every answer and every error of the guest checked. */
export function checkedClient<S extends DescService>(service: S, client: ServiceClient<S>): ServiceClient<S> {
  const calls = Object.entries(client as Readonly<Record<string, Call>>); // methods of the descriptor, as createServiceClient() makes them
  return Object.fromEntries(calls.map(([name, call]) => {
    const { methodKind } = service.method[name] ?? {};
    return [name, methodKind === "unary" || methodKind === "client_streaming" ? unary(name, call) : streaming(name, call)];
  })) as unknown as ServiceClient<S>; // one wrapper per method, of its kind
}

function unary(name: string, call: Call): Call {
  return async (request, options = {}) => {
    let reply: unknown;
    const beganMs = performance.now();
    try {
      reply = await timed(name, call, request, options);
    } catch (error) {
      const { timeoutMs } = options;
      if (timeoutMs !== undefined && RuntimeError.is(error, "deadline_exceeded") && performance.now() - beganMs > timeoutMs - timerErrorMs) throw silence(name, timeoutMs);
      throw cleanGuestError(error);
    }
    return checkReply(name, reply);
  };
}

/** Nobody answered, neither with a result nor with an error. */
function silence(name: string, timeoutMs: number): RuntimeError {
  return new RuntimeError("deadline_exceeded", `${name}: the guest's agent does not answer, waited ${Math.round(timeoutMs)} ms`, { reason: "agent_silent", hint: "`casemate logs --vm` may tell why; `casemate stop`, or of a pod `casemate pod stop`, ends it whatever the guest does" });
}

/** Makes the call, and tells the step it is part of how long it took and what the guest says of that, if somebody wants to know. */
async function timed(name: string, call: Call, request: unknown, options: CallOptions): Promise<unknown> {
  const collector = callCollector();
  if (collector === undefined) return call(request, options);
  const startMs = performance.now();
  let parts: readonly CallPart[] = [];
  try {
    return await (call(request, { ...options, metadata: { ...options.metadata, [traceHeader]: collector.traceparent }, onParts: (told: readonly CallPart[]) => { parts = told; } }) as Promise<unknown>); // a unary call
  } finally {
    const endMs = performance.now();
    collector.calls.push({ name, startMs, endMs, parts: plausibleParts(parts, endMs - startMs) });
  }
}

function streaming(name: string, call: Call): Call {
  return async function* checked(request, options) {
    try {
      for await (const message of call(request, options) as AsyncIterable<unknown>) yield checkReply(name, message);
    } catch (error) {
      throw cleanGuestError(error);
    }
  };
}
