import assert from "node:assert/strict";
import { test } from "node:test";
import { parseSlotRange, slotAddresses } from "./address-slot.ts";
import { describeGuestNetwork, macAddress, networkWarnings } from "./guest-network.ts";
import { hasIpv4DefaultRoute, hasIpv6DefaultRoute, parseResolvConf, type HostNetwork } from "./host-network.ts";
import { passtArgs } from "./passt-args.ts";

const slot = slotAddresses(parseSlotRange("10.87.0.0/16"), 1);
const dual: HostNetwork = { ipv4Uplink: true, ipv6Uplink: true, nameservers: ["127.0.0.53", "fd00::1"], searchDomains: ["example.org"] };
const argsOn = (host: HostNetwork, ports: Parameters<typeof passtArgs>[0]["ports"] = []): string => passtArgs({ fd: 3, slot, gatewayMacAddress: "02:00:00:00:00:01", host, ports, guarded: false }).join(" ");
const common = "--foreground --quiet --fd 3 --log-file passt.log --log-size 262144 --pid passt.pid --mac-addr 02:00:00:00:00:01 --no-dhcp --no-dhcpv6 --no-ra --no-map-gw";
const v4 = "--address 10.87.0.10 --netmask 29 --gateway 10.87.0.9";
const v6 = "--address fd63:6173:a57:8::2 --gateway fd63:6173:a57:8::1";

test("passtArgs() follows the families the host has", () => {
  const table: readonly [HostNetwork, string][] = [
    [dual, `${common} ${v4} ${v6} --dns-forward 10.87.0.11 --dns-forward fd63:6173:a57:8::3 --tcp-ports none --udp-ports none`],
    [{ ...dual, ipv6Uplink: false }, `${common} ${v4} --dns-forward 10.87.0.11 --ipv4-only --tcp-ports none --udp-ports none`],
    [{ ...dual, ipv4Uplink: false }, `${common} ${v6} --dns-forward fd63:6173:a57:8::3 --ipv6-only --tcp-ports none --udp-ports none`],
    [{ ...dual, ipv4Uplink: false, ipv6Uplink: false, nameservers: [] }, `${common} ${v4} --ipv4-only --interface lo --tcp-ports none --udp-ports none`],
  ];
  for (const [host, expected] of table) assert.equal(argsOn(host), expected);
});

test("passtArgs() gives each published port an option of its own", () => {
  const args = argsOn(dual, [
    { protocol: "tcp", hostAddress: "", hostPort: 80, containerPort: 8080 },
    { protocol: "udp", hostAddress: "127.0.0.1", hostPort: 53, containerPort: 53 },
    { protocol: "tcp", hostAddress: "::1", hostPort: 81, containerPort: 81 },
  ]);
  assert.ok(args.endsWith("--tcp-ports 80:8080 --tcp-ports ::1/81:81 --udp-ports 127.0.0.1/53:53"), args);
});

test("passtArgs() maps the gateway to loopback only for UDP behind the guard", () => {
  const udp = { protocol: "udp", hostAddress: "", hostPort: 53, containerPort: 53 } as const;
  const mapped = (guarded: boolean, ports: Parameters<typeof passtArgs>[0]["ports"]): boolean => !passtArgs({ fd: 3, slot, gatewayMacAddress: "02:00:00:00:00:01", host: dual, ports, guarded }).includes("--no-map-gw");
  assert.deepEqual([mapped(true, [udp]), mapped(false, [udp]), mapped(true, []), mapped(true, [{ ...udp, protocol: "tcp" }])], [true, false, false, false]);
});

test("describeGuestNetwork() tells the guest all it has to set up", () => {
  assert.deepEqual(describeGuestNetwork("sandbox-1", slot, dual), {
    interfaceName: "eth0",
    macAddress: macAddress("sandbox-1", "guest"),
    mtu: 65_520,
    addresses: ["10.87.0.10/29", "fd63:6173:a57:8::2/64"],
    routes: [{ destination: "0.0.0.0/0", gateway: "10.87.0.9" }, { destination: "::/0", gateway: "fd63:6173:a57:8::1" }],
    nameservers: ["10.87.0.11", "fd63:6173:a57:8::3"],
    searchDomains: ["example.org"],
  });
});

test("macAddress() is local, unicast, stable, and differs between sandboxes and ends", () => {
  assert.match(macAddress("a", "guest"), /^02(:[0-9a-f]{2}){5}$/);
  assert.equal(macAddress("a", "guest"), macAddress("a", "guest"));
  assert.equal(new Set([macAddress("a", "guest"), macAddress("a", "gateway"), macAddress("b", "guest")]).size, 3);
});

test("networkWarnings() has one warning at most", () => {
  assert.deepEqual(networkWarnings(dual), []);
  assert.match(networkWarnings({ ...dual, ipv4Uplink: false, ipv6Uplink: false, nameservers: [] }).join("|"), /^[^|]*no default route[^|]*$/);
  assert.match(networkWarnings({ ...dual, nameservers: [] }).join("|"), /^[^|]*name server[^|]*$/);
});

test("default routes are found in /proc/net, and rejecting ones are not", () => {
  const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
  assert.equal(hasIpv4DefaultRoute(`${head}eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n`), true);
  assert.equal(hasIpv4DefaultRoute(`${head}eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n`), false);
  assert.equal(hasIpv4DefaultRoute(`${head}*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n`), false);
  assert.equal(hasIpv4DefaultRoute(""), false);
  const zero = "0".repeat(32);
  assert.equal(hasIpv6DefaultRoute(`${zero} 00 ${zero} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n`), true);
  assert.equal(hasIpv6DefaultRoute(`${zero} 00 ${zero} 00 ${zero} ffffffff 00000001 00000000 00200200 lo\n`), false);
  assert.equal(hasIpv6DefaultRoute(""), false);
});

test("parseResolvConf() keeps addresses only", () => {
  const text = "# comment\ndomain old.example\nnameserver 127.0.0.53 # local\nnameserver nonsense\nnameserver fd00::1\nsearch a.example b.example\noptions edns0\nnameserver 1.1.1.1\nnameserver 9.9.9.9\n";
  assert.deepEqual(parseResolvConf(text), { nameservers: ["127.0.0.53", "fd00::1", "1.1.1.1"], searchDomains: ["a.example", "b.example"] });
});
