import type { RuntimeError } from "../../shared/base/errors.ts";
import { linkAsDuplex } from "../../shared/channel/link.ts";
import { StdioMux } from "../../shared/channel/stdio-mux.ts";
import { AgentService } from "../../shared/protocol/gen/agent/agent_pb.ts";
import { Guest } from "../../shared/protocol/gen/casemate_pb.ts";
import { TtrpcClient, createServiceClient, type ServiceClient } from "../../shared/ttrpc/client.ts";
import { checkedClient } from "./checked-client.ts";
import type { ProcessStreams } from "./process-streams.ts";
import { openPort, type ConnectOptions } from "./transport.ts";

/** A connection to the agent of one VM: calls on the control port, stdio on the data port. */
export interface AgentClient {
  readonly agent: ServiceClient<typeof AgentService>;
  readonly guest: ServiceClient<typeof Guest>;
  /** Stdio of the process with that number. */
  streams(streamId: number): ProcessStreams;
  /** Resolves when the connection is lost, with the reason; undefined after close(). */
  readonly closed: Promise<RuntimeError | undefined>;
  close(): void;
}

/** Waits for the agent and connects to both of its ports. @throws RuntimeError `deadline_exceeded` when it never answers. */
export async function connectAgent(sockets: { readonly controlSocket: string; readonly dataSocket: string }, options: ConnectOptions): Promise<AgentClient> {
  // Side by side: each greeting takes the guest as long as the other.
  const [first, second] = await Promise.allSettled([openPort(sockets.controlSocket, options), openPort(sockets.dataSocket, options)]);
  try {
    if (first.status === "rejected") throw first.reason;
    if (second.status === "rejected") throw second.reason;
    const control = first.value, data = second.value;
    const client = TtrpcClient.over(linkAsDuplex(control.link));
    const mux = new StdioMux();
    mux.attach(data.link);
    const close = (): void => {
      client.close();
      control.close();
      data.close();
    };
    const closed = Promise.race([control.closed, data.closed]).then((error) => {
      close();
      return error;
    });
    return { agent: checkedClient(AgentService, createServiceClient(AgentService, client)), guest: checkedClient(Guest, createServiceClient(Guest, client)), streams: (streamId) => muxStreams(mux, streamId), closed, close };
  } catch (error) {
    for (const port of [first, second]) if (port.status === "fulfilled") port.value.close();
    throw error;
  }
}

function muxStreams(mux: StdioMux, streamId: number): ProcessStreams {
  const opened: { close(): void }[] = [];
  const remember = <T extends { close(): void }>(stream: T): T => {
    opened.push(stream);
    return stream;
  };
  return {
    openStdin: (startOffset, onTaken) => remember(mux.openSender(streamId, 0, startOffset, onTaken)),
    openOutput: (fd, handlers, startOffset) => remember(mux.openReceiver(streamId, fd, handlers, startOffset)),
    close: () => { for (const stream of opened) stream.close(); },
  };
}
