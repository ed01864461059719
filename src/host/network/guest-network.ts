import { createHash } from "node:crypto";
import type { AddressSlot } from "./address-slot.ts";
import type { HostNetwork } from "./host-network.ts";
import { forwardedFamilies, guestFamilies } from "./passt-args.ts";

/** What the guest has to set up for its interface; the agent is told by UpdateInterface, UpdateRoutes and CreateSandbox. */
export interface GuestNetwork {
  readonly interfaceName: string;
  /** The interface is found by this. */
  readonly macAddress: string;
  readonly mtu: number;
  /** In CIDR form. */
  readonly addresses: readonly string[];
  /** `destination` in CIDR form; `gateway` is an address on one of the interface's own networks. */
  readonly routes: readonly { readonly destination: string; readonly gateway: string }[];
  readonly nameservers: readonly string[];
  readonly searchDomains: readonly string[];
}

/** passt's default: the largest frame it reads, rounded down to whole IPv4 words. Segments for the real network are cut by the host's kernel. */
const mtuBytes = 65_520;

/** The guest's settings in that slot on that host. */
export function describeGuestNetwork(sandboxId: string, slot: AddressSlot, host: HostNetwork): GuestNetwork {
  const families = guestFamilies(host);
  const resolvers = forwardedFamilies(host);
  const present = [...(families.ipv4 ? [{ ...slot.ipv4, anywhere: "0.0.0.0/0" }] : []), ...(families.ipv6 ? [{ ...slot.ipv6, anywhere: "::/0" }] : [])];
  return {
    interfaceName: "eth0",
    macAddress: macAddress(sandboxId, "guest"),
    mtu: mtuBytes,
    addresses: present.map(({ guest, prefixLength }) => `${guest}/${prefixLength}`),
    routes: present.map(({ anywhere, gateway }) => ({ destination: anywhere, gateway })),
    nameservers: [...(resolvers.ipv4 ? [slot.ipv4.resolver] : []), ...(resolvers.ipv6 ? [slot.ipv6.resolver] : [])],
    searchDomains: host.searchDomains,
  };
}

/** A sandbox's MAC address at one end of its link: locally administered, unicast, the same for the same sandbox. */
export function macAddress(sandboxId: string, end: "guest" | "gateway"): string {
  const digest = createHash("sha256").update(`${end} ${sandboxId}`).digest("hex");
  return ["02", ...Array.from({ length: 5 }, (_, index) => digest.slice(index * 2, index * 2 + 2))].join(":");
}

/** What the user should know about that host's network. */
export function networkWarnings(host: HostNetwork): string[] {
  if (!host.ipv4Uplink && !host.ipv6Uplink) return ["this host has no default route: published ports work, the container reaches nothing outside"];
  const { ipv4, ipv6 } = forwardedFamilies(host);
  return ipv4 || ipv6 ? [] : ["no name server in the host's /etc/resolv.conf can be used: names do not resolve in the container"];
}
