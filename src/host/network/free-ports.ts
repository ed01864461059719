import { createSocket } from "node:dgram";
import { createServer } from "node:net";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { PublishRequest, PublishedPort } from "../store/container-store.ts";

/** Tries for a port that is free on every address, when the kernel's choice for one turns out to be taken. */
const maxChoices = 16;

/**
 * Gives every entry a host port that can be bound now: the one asked for, the first free one of a
 * range, or one of the kernel's choice. Nothing stays bound; who comes in between is met by passt.
 * @throws RuntimeError `failed_precondition` with reason `port_taken` or `port_privileged`, or
 *   `address_missing` when the host has no such address; `invalid_argument` when two entries want one port.
 */
export async function choosePorts(requests: readonly PublishRequest[]): Promise<PublishedPort[]> {
  const chosen = new Map<PublishRequest, PublishedPort>();
  // Those with the least choice first, so that none of their ports is given away.
  for (const request of [...requests].sort((a, b) => choiceOf(a) - choiceOf(b))) chosen.set(request, await choosePort(request, [...chosen.values()]));
  return requests.flatMap((request) => chosen.get(request) ?? []);
}

function choiceOf({ hostPorts }: PublishRequest): number {
  return hostPorts === undefined ? 65_536 : hostPorts.last - hostPorts.first;
}

async function choosePort(request: PublishRequest, chosen: readonly PublishedPort[]): Promise<PublishedPort> {
  const { protocol, hostAddress, hostPorts, containerPort } = request;
  const usedHere = (hostPort: number): boolean => chosen.some((other) => other.protocol === protocol && other.hostPort === hostPort);
  if (hostPorts === undefined) {
    for (let tries = 0; tries < maxChoices; tries++) {
      const hostPort = await bindPort(protocol, hostAddress, 0);
      if (!usedHere(hostPort)) return { protocol, hostAddress, hostPort, containerPort };
    }
    throw new RuntimeError("resource_exhausted", `publish port ${containerPort}/${protocol}: no free host port found`);
  }
  let taken: unknown;
  for (let hostPort = hostPorts.first; hostPort <= hostPorts.last; hostPort++) {
    if (usedHere(hostPort)) {
      // passt forwards a host port to one place, whatever the address.
      taken ??= new RuntimeError("invalid_argument", `publish ${describe(hostAddress, hostPort)}/${protocol}: given twice`, { reason: "port_given_twice", hint: "publish each host port once, on one address or on all" });
      continue;
    }
    try {
      await bindPort(protocol, hostAddress, hostPort);
      return { protocol, hostAddress, hostPort, containerPort };
    } catch (error) {
      if (!RuntimeError.is(error) || error.reason !== "port_taken") throw error;
      taken ??= error;
    }
  }
  throw taken;
}

/** Binds and frees a port; answers which it was. */
async function bindPort(protocol: PublishedPort["protocol"], hostAddress: string, hostPort: number): Promise<number> {
  const bind = protocol === "tcp" ? bindTcp : bindUdp;
  try {
    return await bind(hostAddress === "" ? "::" : hostAddress, hostPort);
  } catch (error) {
    if (hostAddress !== "" || !isErrnoException(error) || (error.code !== "EAFNOSUPPORT" && error.code !== "EADDRNOTAVAIL")) throw bindFailure(error, protocol, hostAddress, hostPort);
  }
  try {
    return await bind("0.0.0.0", hostPort); // a host without IPv6
  } catch (error) {
    throw bindFailure(error, protocol, hostAddress, hostPort);
  }
}

async function bindTcp(address: string, port: number): Promise<number> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: address, port, exclusive: true }, () => {
      const bound = server.address();
      server.close(() => resolve(typeof bound === "object" && bound !== null ? bound.port : port));
    });
  });
}

async function bindUdp(address: string, port: number): Promise<number> {
  const socket = createSocket({ type: address.includes(":") ? "udp6" : "udp4" });
  return new Promise((resolve, reject) => {
    socket.once("error", (error) => {
      socket.close();
      reject(error);
    });
    socket.bind({ address, port, exclusive: true }, () => {
      const bound = socket.address().port;
      socket.close(() => resolve(bound));
    });
  });
}

function describe(hostAddress: string, hostPort: number): string {
  return `${hostAddress === "" ? "" : hostAddress.includes(":") ? `[${hostAddress}]:` : `${hostAddress}:`}${hostPort}`;
}

function bindFailure(error: unknown, protocol: string, hostAddress: string, hostPort: number): RuntimeError {
  const what = `publish host port "${describe(hostAddress, hostPort)}/${protocol}"`;
  if (isErrnoException(error, "EADDRINUSE")) return portTaken(what, error);
  if (isErrnoException(error, "EACCES")) return new RuntimeError("failed_precondition", `${what}: ports below the host's net.ipv4.ip_unprivileged_port_start need root`, { cause: error, reason: "port_privileged", hint: "publish a port from 1024 on, or run as root" });
  if (isErrnoException(error, "EADDRNOTAVAIL")) return new RuntimeError("failed_precondition", `${what}: the host has no address "${hostAddress}"`, { cause: error, reason: "address_missing", hint: "leave the address out to listen on all of them" });
  return RuntimeError.wrap(error, what);
}

/** The error for a host port that somebody else listens on. */
export function portTaken(what: string, cause?: unknown): RuntimeError {
  return new RuntimeError("failed_precondition", `${what}: port is taken`, { cause, reason: "port_taken", hint: "choose another host port, or find who holds this one with `ss -ltnup`" });
}
