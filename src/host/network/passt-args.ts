import type { PublishedPort } from "../store/container-store.ts";
import type { AddressSlot } from "./address-slot.ts";
import type { HostNetwork } from "./host-network.ts";

/** Files of passt, relative to its working folder: the folders above are closed to its user. */
export const passtFiles = { log: "passt.log", pid: "passt.pid" } as const;
/** Size of passt's log, which drops its oldest lines. */
const logBytes = 256 * 1024;

/** What decides passt's command line. */
export interface PasstSettings {
  /** Number of the connected socket in passt. */
  readonly fd: number;
  readonly slot: AddressSlot;
  /** MAC address that passt answers with. */
  readonly gatewayMacAddress: string;
  readonly host: HostNetwork;
  readonly ports: readonly PublishedPort[];
  /** The packet filter keeps passt off the host's loopback (loopback-guard.ts). */
  readonly guarded: boolean;
}

/** Which families the guest gets. Without any uplink it is IPv4 alone, for the published ports. */
export function guestFamilies(host: HostNetwork): { readonly ipv4: boolean; readonly ipv6: boolean } {
  return { ipv4: host.ipv4Uplink || !host.ipv6Uplink, ipv6: host.ipv6Uplink };
}

/**
 * passt's arguments. The guest is configured by the agent, so everything that would configure it
 * from the network is off.
 */
export function passtArgs({ fd, slot, gatewayMacAddress, host, ports, guarded }: PasstSettings): string[] {
  const { ipv4, ipv6 } = guestFamilies(host);
  const resolverFamilies = forwardedFamilies(host);
  return [
    "--foreground", "--quiet", "--fd", String(fd),
    "--log-file", passtFiles.log, "--log-size", String(logBytes), "--pid", passtFiles.pid,
    "--mac-addr", gatewayMacAddress,
    "--no-dhcp", "--no-dhcpv6", "--no-ra",
    // Without this the gateway address is the host's loopback; with it the answers of a published UDP
    // port do not find back to a client on the host's loopback.
    ...(guarded && ports.some(({ protocol }) => protocol === "udp") ? [] : ["--no-map-gw"]),
    ...(ipv4 ? ["--address", slot.ipv4.guest, "--netmask", String(slot.ipv4.prefixLength), "--gateway", slot.ipv4.gateway] : []),
    ...(ipv6 ? ["--address", slot.ipv6.guest, "--gateway", slot.ipv6.gateway] : []),
    ...(resolverFamilies.ipv4 ? ["--dns-forward", slot.ipv4.resolver] : []),
    ...(resolverFamilies.ipv6 ? ["--dns-forward", slot.ipv6.resolver] : []),
    ...(ipv4 ? [] : ["--ipv6-only"]),
    ...(ipv6 ? [] : ["--ipv4-only"]),
    // passt wants an interface to take its addresses from, and ends without one; loopback will do, since all addresses are given.
    ...(host.ipv4Uplink || host.ipv6Uplink ? [] : ["--interface", "lo"]),
    ...portArgs("--tcp-ports", ports.filter(({ protocol }) => protocol === "tcp")),
    ...portArgs("--udp-ports", ports.filter(({ protocol }) => protocol === "udp")),
  ];
}

/** Families in which the guest can ask the host's resolver: those it has itself and the host has a name server of. */
export function forwardedFamilies(host: HostNetwork): { readonly ipv4: boolean; readonly ipv6: boolean } {
  const families = guestFamilies(host);
  return {
    ipv4: families.ipv4 && host.nameservers.some((server) => !server.includes(":")),
    ipv6: families.ipv6 && host.nameservers.some((server) => server.includes(":")),
  };
}

/** One option a port: passt passes over ports it cannot bind as long as one of the same option can be bound. */
function portArgs(option: string, ports: readonly PublishedPort[]): string[] {
  if (ports.length === 0) return [option, "none"];
  return ports.flatMap(({ hostAddress, hostPort, containerPort }) => [option, `${hostAddress === "" ? "" : `${hostAddress}/`}${hostPort}:${containerPort}`]);
}
