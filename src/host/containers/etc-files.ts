import type { OwnerClient } from "../control/owner-client.ts";
import type { ContainerRecord } from "../store/container-store.ts";
import { ContainerFileClient } from "./container-file-client.ts";

/**
 * Adds what the container's options say of hosts and resolvers to its /etc/hosts and /etc/resolv.conf,
 * which are the sandbox's own. A volume there is the user's, and left alone.
 */
export async function writeEtcFiles(client: OwnerClient, record: ContainerRecord): Promise<void> {
  const { hosts = [], dns = [], dnsSearch = [], dnsOptions = [] } = record.settings ?? {};
  const files = new ContainerFileClient(async () => client.owner, record.containerId);
  const isOurs = (path: string): boolean => !record.volumes.some(({ destination }) => destination === path || destination === "/etc");
  if (hosts.length > 0 && isOurs("/etc/hosts")) {
    await files.write("/etc/hosts", [Buffer.from(hosts.map(({ address, name }) => `${address}\t${name}\n`).join(""))], { append: true });
  }
  if (dns.length + dnsSearch.length + dnsOptions.length > 0 && isOurs("/etc/resolv.conf")) {
    const before: Uint8Array[] = [];
    for await (const piece of files.read("/etc/resolv.conf")) before.push(piece);
    await files.write("/etc/resolv.conf", [Buffer.from(resolvConf(Buffer.concat(before).toString(), { dns, dnsSearch, dnsOptions }))]);
  }
}

/** resolv.conf(5) with one's own resolvers, domains and options instead of those it has; what is not given stays. */
export function resolvConf(before: string, wanted: { readonly dns: readonly string[]; readonly dnsSearch: readonly string[]; readonly dnsOptions: readonly string[] }): string {
  const { dns, dnsSearch, dnsOptions } = wanted;
  const replaced = [...(dns.length > 0 ? ["nameserver"] : []), ...(dnsSearch.length > 0 ? ["search", "domain"] : []), ...(dnsOptions.length > 0 ? ["options"] : [])];
  const kept = before.split("\n").filter((line) => line !== "" && !replaced.includes(line.split(/\s/)[0] ?? ""));
  return [
    ...dns.map((address) => `nameserver ${address}`),
    ...kept,
    ...(dnsSearch.length > 0 ? [`search ${dnsSearch.join(" ")}`] : []),
    ...(dnsOptions.length > 0 ? [`options ${dnsOptions.join(" ")}`] : []),
    "",
  ].join("\n");
}
