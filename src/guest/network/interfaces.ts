import { readFileSync, readdirSync } from "node:fs";
import { isIP } from "node:net";
import { create } from "@bufbuild/protobuf";
import { eventually } from "../../shared/base/deadline.ts";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { IPFamily, InterfaceSchema, type Interface } from "../../shared/protocol/gen/agent/types_pb.ts";
import { ipBatch, ipJson } from "./ip.ts";

/** A plugged NIC is seen after 0.1 to 0.3 s under emulation; a loaded host may take much longer. */
const nicTimeoutMs = 15_000;
/** IFNAMSIZ less the final NUL; no character that `ip` or a file name could take for something else. */
const namePattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$/;
const macPattern = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;

/**
 * Waits for the NIC with that MAC and gives it name, MTU and exactly these addresses; it is up
 * afterwards. With `device` it is the NIC of that name, which gets the MAC too: a clone's has the one of
 * the guest it was cloned from.
 */
export async function updateInterface(wanted: Interface): Promise<Interface> {
  const name = requireInterfaceName(wanted.name === "" ? wanted.device : wanted.name);
  const mac = wanted.hwAddr.toLowerCase();
  const named = wanted.device !== "" && wanted.name !== "" ? requireInterfaceName(wanted.device) : undefined;
  const present = named ?? await findInterface(mac, name);
  await ipBatch(`set up interface "${name}"`, [...(named === undefined || mac === "" ? [] : [`link set dev ${named} address ${requireMac(mac)}`]), ...interfaceCommands(present, name, wanted)]);
  const [result] = (await listInterfaces()).filter((found) => found.name === name);
  if (result === undefined) throw new RuntimeError("internal", `set up interface "${name}": it is gone`);
  return result;
}

/** The lines for `ip -batch`. */
export function interfaceCommands(present: string, name: string, wanted: Interface): string[] {
  return [
    // An interface can be renamed only while it is down.
    ...(present === name ? [] : [`link set dev ${present} down`, `link set dev ${present} name ${name}`]),
    ...(wanted.mtu > 0n ? [`link set dev ${name} mtu ${requireMtu(wanted.mtu)}`] : []),
    `addr flush dev ${name} scope global`,
    // nodad: the address is ours by assignment, and duplicate detection would leave it unusable for a second.
    ...wanted.IPAddresses.map((address) => `addr replace ${requireCidr(address.address, address.mask)} dev ${name}${address.address.includes(":") ? " nodad" : ""}`),
    `link set dev ${name} up`,
  ];
}

export async function listInterfaces(): Promise<Interface[]> {
  return parseInterfaces(await ipJson(["addr", "show"]));
}

/** Reads what `ip -j addr` prints. */
export function parseInterfaces(links: readonly unknown[]): Interface[] {
  return links.filter(isRecord).map((link) => create(InterfaceSchema, {
    name: text(link["ifname"]),
    device: text(link["ifname"]),
    hwAddr: text(link["address"]),
    mtu: BigInt(number(link["mtu"])),
    type: text(link["link_type"]),
    IPAddresses: list(link["addr_info"]).filter(isRecord).map((info) => ({
      family: info["family"] === "inet6" ? IPFamily.v6 : IPFamily.v4,
      address: text(info["local"]),
      mask: String(number(info["prefixlen"])),
    })),
  }));
}

/** @throws RuntimeError `invalid_argument`. */
export function requireInterfaceName(name: string): string {
  if (!namePattern.test(name)) throw new RuntimeError("invalid_argument", `interface name "${name.slice(0, 40)}": must be 1 to 15 letters, digits, "_", "." or "-"`);
  return name;
}

async function findInterface(mac: string, name: string): Promise<string> {
  if (mac === "") return name;
  requireMac(mac);
  return eventually(`wait for the NIC with MAC address ${mac}`, () => readdirSync("/sys/class/net").find((candidate) => macOf(candidate) === mac), { timeoutMs: nicTimeoutMs, intervalMs: 5 });
}

function requireMac(mac: string): string {
  if (!macPattern.test(mac)) throw new RuntimeError("invalid_argument", `MAC address "${mac.slice(0, 40)}": must be six hexadecimal bytes`);
  return mac;
}

function macOf(name: string): string | undefined {
  try {
    return readFileSync(`/sys/class/net/${name}/address`, "latin1").trim();
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "EINVAL") || isErrnoException(error, "ENODEV")) return undefined; // it went while we looked
    throw error;
  }
}

function requireCidr(address: string, mask: string): string {
  const family = isIP(address), prefix = Number(mask);
  if (family === 0 || !/^\d{1,3}$/.test(mask) || prefix > (family === 4 ? 32 : 128)) throw new RuntimeError("invalid_argument", `address "${address.slice(0, 60)}/${mask.slice(0, 10)}": must be an IP address and a prefix length`);
  return `${address}/${prefix}`;
}

function requireMtu(mtu: bigint): bigint {
  if (mtu < 68n || mtu > 65_535n) throw new RuntimeError("invalid_argument", `MTU ${mtu}: must be between 68 and 65535`);
  return mtu;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
export function text(value: unknown): string { return typeof value === "string" ? value : ""; }
export function number(value: unknown): number { return typeof value === "number" ? value : 0; }
function list(value: unknown): unknown[] { return Array.isArray(value) ? value : []; }
