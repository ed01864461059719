import { RuntimeError } from "../../shared/base/errors.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import type { ResourceKind, ResourceRecord } from "../store/ledger.ts";

/**
 * Keeps a guest off the host's loopback services. passt's --no-map-gw takes away the gateway's way
 * there, but older versions (Debian 12's) still connect to 127.0.0.1, ::1 or 0.0.0.0 when a guest's
 * packet says so, and a hostile guest's kernel sends what it likes. So connections that passt's user
 * opens to loopback are refused by the host's packet filter; answers on published ports are no new
 * connections and pass.
 */
export interface GuardSpec {
  /** Names the chain: what a crash of another sandbox has left, and what one of other state folders has, is not touched. */
  readonly sandboxId: string;
  /** User of passt and of no other program that talks over loopback. */
  readonly uid: number;
  /** The host's name servers; those on loopback stay reachable, for datagrams, as passt forwards them. */
  readonly nameservers: readonly string[];
}

interface GuardRecord extends ResourceRecord {
  readonly kind: "loopback-guard";
  readonly chain: string;
  readonly uid: number;
}

interface Family {
  readonly tool: "iptables" | "ip6tables";
  readonly loopback: string;
  readonly isMine: (address: string) => boolean;
}

const families: readonly Family[] = [
  { tool: "iptables", loopback: "127.0.0.0/8", isMine: (address) => address.startsWith("127.") },
  { tool: "ip6tables", loopback: "::1/128", isMine: (address) => address === "::1" },
];
/** Of a chain's name, in iptables. */
const maxChainLength = 28;
/** Seconds to wait for another program that changes the packet filter. */
const lockWaitSeconds = "5";
const toolTimeoutMs = 10_000;

/** The packet-filter rules of one sandbox. Held: undefined, or why there are none. */
export const loopbackGuardKind: ResourceKind<GuardSpec, GuardRecord, string | undefined> = {
  kind: "loopback-guard",
  volatile: true,
  plan: ({ sandboxId, uid }) => ({ kind: "loopback-guard", name: "loopback", chain: `casemate-${sandboxId}`.slice(0, maxChainLength), uid }),
  act: async (record, { nameservers }) => {
    try {
      for (const family of families) {
        await restore(family, [...await freshChain(record, family), ...guardRules(record, family, nameservers)]);
      }
      return undefined;
    } catch (error) {
      if (RuntimeError.is(error) && error.reason === "tool_missing") return "iptables is not installed";
      throw RuntimeError.wrap(error, "keep the guest off the host's loopback");
    }
  },
  release: async (record) => {
    try {
      for (const family of families) await restore(family, [...await freshChain(record, family), `-X ${record.chain}`]);
    } catch (error) {
      if (!RuntimeError.is(error) || error.reason !== "tool_missing") throw error;
    }
  },
};

/** What refuses connections to one family's loopback, for a chain that is empty. */
export function guardRules({ chain, uid }: Pick<GuardRecord, "chain" | "uid">, { loopback, isMine }: Pick<Family, "loopback" | "isMine">, nameservers: readonly string[]): string[] {
  return [
    ...nameservers.filter(isMine).map((server) => `-A ${chain} -d ${server} -p udp --dport 53 -j RETURN`),
    `-A ${chain} -j REJECT`,
    `-I OUTPUT 1 -o lo -d ${loopback} -m owner --uid-owner ${uid} -m conntrack --ctstate NEW -j ${chain}`,
  ];
}

/**
 * What makes the chain, or empties the one that a crashed start of this sandbox has left. The rules that lead
 * there are looked up: that start's passt may have had another user.
 */
async function freshChain({ chain }: GuardRecord, { tool }: Family): Promise<string[]> {
  const { stdout } = await runProcess(tool, ["-w", lockWaitSeconds, "-S", "OUTPUT"], { timeoutMs: toolTimeoutMs });
  const jumps = stdout.toString().split("\n").filter((rule) => rule.startsWith("-A ") && rule.endsWith(` -j ${chain}`));
  return [`:${chain} - [0:0]`, ...jumps.map((rule) => rule.replace("-A", "-D"))];
}

/** All of these changes take effect, or none. */
async function restore({ tool }: Family, changes: readonly string[]): Promise<void> {
  await runProcess(`${tool}-restore`, ["--noflush", "-w", lockWaitSeconds], { input: ["*filter", ...changes, "COMMIT", ""].join("\n"), timeoutMs: toolTimeoutMs });
}
