import type { DescService } from "@bufbuild/protobuf";
import type { ServiceClient } from "../../shared/ttrpc/client.ts";
import { checkReply, cleanGuestError } from "./check-reply.ts";

type Call = (...args: readonly unknown[]) => Promise<unknown> | AsyncIterable<unknown>;

/** The same calls, with every answer and every error of the guest checked. */
export function checkedClient<S extends DescService>(service: S, client: ServiceClient<S>): ServiceClient<S> {
  const calls = Object.entries(client as Readonly<Record<string, Call>>); // methods of the descriptor, as createServiceClient() makes them
  return Object.fromEntries(calls.map(([name, call]) => {
    const { methodKind } = service.method[name] ?? {};
    return [name, methodKind === "unary" || methodKind === "client_streaming" ? unary(name, call) : streaming(name, call)];
  })) as unknown as ServiceClient<S>; // one wrapper per method, of its kind
}

function unary(name: string, call: Call): Call {
  return async (...args) => {
    let reply: unknown;
    try {
      reply = await call(...args);
    } catch (error) {
      throw cleanGuestError(error);
    }
    return checkReply(name, reply);
  };
}

function streaming(name: string, call: Call): Call {
  return async function* checked(...args) {
    try {
      for await (const message of call(...args) as AsyncIterable<unknown>) yield checkReply(name, message);
    } catch (error) {
      throw cleanGuestError(error);
    }
  };
}
