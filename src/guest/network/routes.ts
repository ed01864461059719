import { isIP } from "node:net";
import { create } from "@bufbuild/protobuf";
import { RuntimeError } from "../../shared/base/errors.ts";
import { IPFamily, RouteSchema, type Route } from "../../shared/protocol/gen/agent/types_pb.ts";
import { isRecord, number, requireInterfaceName, text } from "./interfaces.ts";
import { ipBatch, ipJson } from "./ip.ts";

/** Adds or replaces each route; others stay. Returns all routes. */
export async function updateRoutes(routes: readonly Route[]): Promise<Route[]> {
  await ipBatch("set routes", routeCommands(routes));
  return listRoutes();
}

/** The lines for `ip -batch`: routes without a gateway first, because a gateway must be reachable when its route is set. */
export function routeCommands(routes: readonly Route[]): string[] {
  return [...routes].sort((a, b) => Number(a.gateway !== "") - Number(b.gateway !== "")).map((route) => [
    "route replace", requireDestination(route),
    ...(route.gateway === "" ? [] : ["via", requireIp(route.gateway, "gateway")]),
    ...(route.device === "" ? [] : ["dev", requireInterfaceName(route.device)]),
    ...(route.source === "" ? [] : ["src", requireIp(route.source, "source")]),
    ...(route.scope === 0 ? [] : ["scope", String(route.scope & 0xff)]),
    ...(route.mtu === 0 ? [] : ["mtu", String(route.mtu)]),
    // A gateway outside the interface's own network, as cloud networks have (RTNH_F_ONLINK).
    ...((route.flags & 4) === 0 ? [] : ["onlink"]),
  ].join(" "));
}

export async function listRoutes(): Promise<Route[]> {
  const [v4, v6] = await Promise.all([ipJson(["route", "show", "table", "main"]), ipJson(["-6", "route", "show", "table", "main"])]);
  return [...parseRoutes(v4, IPFamily.v4), ...parseRoutes(v6, IPFamily.v6)];
}

/** Reads what `ip -j route` prints. */
export function parseRoutes(routes: readonly unknown[], family: IPFamily): Route[] {
  return routes.filter(isRecord).map((route) => create(RouteSchema, {
    dest: text(route["dst"]) === "default" ? "" : text(route["dst"]),
    gateway: text(route["gateway"]),
    device: text(route["dev"]),
    source: text(route["prefsrc"]),
    scope: route["scope"] === "link" ? 253 : 0,
    mtu: number(route["mtu"]),
    family,
  }));
}

/** `ip` takes the family from the address, so IPv6's default route is written out. */
function requireDestination({ dest: destination, family }: Route): string {
  if (destination === "" || destination === "default") return family === IPFamily.v6 ? "::/0" : "0.0.0.0/0";
  const [address = "", prefix, ...rest] = destination.split("/");
  if (isIP(address) === 0 || rest.length > 0 || (prefix !== undefined && !/^\d{1,3}$/.test(prefix))) throw new RuntimeError("invalid_argument", `route to "${destination.slice(0, 60)}": must be an address, a network or "default"`);
  return destination;
}

function requireIp(address: string, what: string): string {
  if (isIP(address) === 0) throw new RuntimeError("invalid_argument", `${what} "${address.slice(0, 60)}": must be an IP address`);
  return address;
}
