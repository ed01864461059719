import { isIP } from "node:net";
import { readOptional } from "../../shared/linux/read-optional.ts";

/** What of the host's network decides how passt is started. */
export interface HostNetwork {
  /** The host has a default route for that family. */
  readonly ipv4Uplink: boolean;
  readonly ipv6Uplink: boolean;
  /** Name servers of the host's resolv.conf, at most 3, loopback ones included. */
  readonly nameservers: readonly string[];
  readonly searchDomains: readonly string[];
}

/** Name servers the C library reads (resolv.conf(5), MAXNS). */
const maxNameservers = 3;
/** Search domains the C library keeps at least (resolv.conf(5)). */
const maxSearchDomains = 6;
const RTF_REJECT = 0x0200;
const RTF_GATEWAY_OR_UP = 0x0001;

/** Reads the host's routes and resolvers. */
export function readHostNetwork(): HostNetwork {
  return {
    ipv4Uplink: hasIpv4DefaultRoute(readOptional("/proc/self/net/route")),
    ipv6Uplink: hasIpv6DefaultRoute(readOptional("/proc/self/net/ipv6_route")),
    ...parseResolvConf(readOptional("/etc/resolv.conf")),
  };
}

/** True when /proc/net/route (hexadecimal columns: iface, destination, gateway, flags, ..., mask) has a usable default route. */
export function hasIpv4DefaultRoute(text: string): boolean {
  return text.split("\n").slice(1).some((line) => {
    const fields = line.trim().split(/\s+/);
    return fields[1] === "00000000" && fields[7] === "00000000" && isUsable(fields[3]);
  });
}

/** True when /proc/net/ipv6_route (destination, prefix length, source, prefix length, next hop, metric, ..., flags, device) has a usable default route. */
export function hasIpv6DefaultRoute(text: string): boolean {
  return text.split("\n").some((line) => {
    const fields = line.trim().split(/\s+/);
    return /^0{32}$/.test(fields[0] ?? "") && fields[1] === "00" && isUsable(fields[8]) && fields[9] !== "lo";
  });
}

function isUsable(flags: string | undefined): boolean {
  const bits = Number.parseInt(flags ?? "0", 16);
  return (bits & RTF_GATEWAY_OR_UP) !== 0 && (bits & RTF_REJECT) === 0;
}

/** Name servers and search list of a resolv.conf; what is not an address is left out. */
export function parseResolvConf(text: string): Pick<HostNetwork, "nameservers" | "searchDomains"> {
  const nameservers: string[] = [];
  let searchDomains: string[] = [];
  for (const line of text.split("\n")) {
    const [keyword, ...values] = line.replace(/[#;].*/, "").trim().split(/\s+/);
    if (keyword === "nameserver" && values[0] !== undefined && isIP(values[0]) !== 0) nameservers.push(values[0]);
    if (keyword === "search" || keyword === "domain") searchDomains = values.filter((domain) => /^[a-zA-Z0-9_.-]+$/.test(domain) && domain !== ".");
  }
  return { nameservers: nameservers.slice(0, maxNameservers), searchDomains: searchDomains.slice(0, maxSearchDomains) };
}
