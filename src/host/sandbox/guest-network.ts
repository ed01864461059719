import type { WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { IPFamily } from "../../shared/protocol/gen/agent/types_pb.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { GuestNetwork } from "../network/guest-network.ts";
import type { SandboxConfig } from "./sandbox-config.ts";

/** Tells the agent who and where it is: host name, resolvers, interface, addresses, routes. */
export async function configureGuestNetwork(connection: AgentClient, config: SandboxConfig, network: GuestNetwork | undefined, wait: WaitOptions): Promise<void> {
  const { agent } = connection;
  if (network !== undefined) {
    await agent.updateInterface({
      interface: { name: network.interfaceName, device: config.clone === undefined ? "" : network.interfaceName, hwAddr: network.macAddress, mtu: BigInt(network.mtu), IPAddresses: network.addresses.map(toIpAddress) },
    }, wait);
    await agent.updateRoutes({
      routes: { Routes: network.routes.map(({ destination, gateway }) => ({ dest: destination, gateway, device: network.interfaceName, family: familyOf(gateway === "" ? destination : gateway) })) },
    }, wait);
  }
  const dns = network === undefined ? [] : [...network.nameservers.map((server) => `nameserver ${server}`), ...(network.searchDomains.length === 0 ? [] : [`search ${network.searchDomains.join(" ")}`])];
  await agent.createSandbox({ hostname: config.hostname, sandboxId: config.sandboxId, dns }, wait);
}

function toIpAddress(cidr: string): { family: IPFamily; address: string; mask: string } {
  const [address, mask] = cidr.split("/");
  if (address === undefined || mask === undefined) throw new RuntimeError("internal", `network address "${cidr}" has no prefix length`);
  return { family: familyOf(address), address, mask };
}

function familyOf(address: string): IPFamily {
  return address.includes(":") ? IPFamily.v6 : IPFamily.v4;
}
