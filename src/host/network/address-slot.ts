import { RuntimeError } from "../../shared/base/errors.ts";
import type { ResourceKind, ResourceRecord } from "../store/ledger.ts";
import { claimNumber, freeNumber } from "../store/number-claim.ts";

/** A sandbox's own piece of the private range: 8 addresses, and a /64 of IPv6 beside them. */
export interface AddressSlot {
  readonly slot: number;
  /** Address of the guest, of the gateway that passt plays, and of the forwarded resolver. */
  readonly ipv4: SlotAddresses;
  readonly ipv6: SlotAddresses;
}

/** The addresses of one family in a slot. */
export interface SlotAddresses {
  readonly guest: string;
  readonly gateway: string;
  readonly resolver: string;
  readonly prefixLength: number;
}

/** The range slots are cut from when the configuration names no other: 8192 of them. */
export const defaultSlotRange = "10.87.0.0/16";
/** The smallest network that holds gateway, guest and resolver: as little as possible of the host's networks is hidden from the guest. */
const slotPrefixLength = 29;
const slotSize = 8;

/** A checked range: base address as a number, and how many slots fit. */
export interface SlotRange {
  readonly base: number;
  readonly slotCount: number;
}

/** Parses the configured range. @throws RuntimeError `invalid_argument` when it is not an IPv4 network of /8 to /29. */
export function parseSlotRange(cidr: string): SlotRange {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(cidr);
  const [a = 256, b = 256, c = 256, d = 256, prefixLength = 0] = (match ?? []).slice(1).map(Number);
  if ([a, b, c, d].some((part) => part > 255) || prefixLength < 8 || prefixLength > slotPrefixLength) {
    throw new RuntimeError("invalid_argument", `network range "${cidr}": must be an IPv4 network from /8 to /${slotPrefixLength}, such as ${defaultSlotRange}`);
  }
  const address = a * 2 ** 24 + b * 2 ** 16 + c * 2 ** 8 + d;
  const base = address - (address % 2 ** (32 - prefixLength));
  if (base !== address) throw new RuntimeError("invalid_argument", `network range "${cidr}": has bits beyond its prefix; it should be "${formatIpv4(base)}/${prefixLength}"`);
  return { base, slotCount: 2 ** (slotPrefixLength - prefixLength) };
}

/** The addresses of one slot. */
export function slotAddresses(range: SlotRange, slot: number): AddressSlot {
  const base = range.base + slot * slotSize;
  // A unique local prefix (RFC 4193) made of the slot's IPv4 network: two sandboxes differ wherever their IPv4 differs.
  const prefix = `fd63:6173:${(base >>> 16).toString(16)}:${(base % 65_536).toString(16)}`;
  return {
    slot,
    ipv4: { gateway: formatIpv4(base + 1), guest: formatIpv4(base + 2), resolver: formatIpv4(base + 3), prefixLength: slotPrefixLength },
    ipv6: { gateway: `${prefix}::1`, guest: `${prefix}::2`, resolver: `${prefix}::3`, prefixLength: 64 },
  };
}

function formatIpv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join(".");
}

/** The ledger's record of a slot. `slot` is -1 until one is claimed: the number is not known before. */
export interface SlotRecord extends ResourceRecord {
  readonly kind: "network-slot";
  /** Folder of the claims: one file a slot, its content is the sandbox's id. */
  readonly folder: string;
  readonly sandboxId: string;
  readonly slot: number;
}

/** What it takes to claim a slot. */
export interface SlotSpec {
  readonly folder: string;
  readonly sandboxId: string;
  readonly range: SlotRange;
}

/** One slot of the range, for one sandbox. */
export const addressSlotKind: ResourceKind<SlotSpec, SlotRecord, AddressSlot> = {
  kind: "network-slot",
  plan: ({ folder, sandboxId }) => ({ kind: "network-slot", name: "address", folder, sandboxId, slot: -1 }),
  act: async (record, { range }, note) => {
    const slot = claimNumber({ folder: record.folder, holder: record.sandboxId }, range.slotCount);
    if (slot === undefined) throw new RuntimeError("resource_exhausted", `claim a network address: all ${range.slotCount} of the range are in use`, { reason: "no_address", hint: "remove sandboxes, or configure a larger private range" });
    note({ ...record, slot });
    return slotAddresses(range, slot);
  },
  release: async (record) => freeNumber({ folder: record.folder, holder: record.sandboxId }, record.slot),
};
