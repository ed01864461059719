// A sandbox's network by passt, seen from a guest that is driven frame by frame.
// - published ports answer, TCP and UDP, below 1024 too, and passt is an unprivileged user
// - a resolver on the host's loopback is asked through the forwarded address
// - no packet a hostile guest can make reaches a service on the host's loopback, whatever rules a crash has left
// - a host without uplink still has its published ports, with one warning
// - a taken port is an error before anything starts; a dead passt is noticed
// Each case runs in network and mount namespaces of its own. Needs root, passt, iptables, iproute2.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { networkSteps } from "../../src/host/network/passt.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import type { ProbeReport, ProbeRequest } from "../support/network-probe.ts";

const probePath = fileURLToPath(new URL("../support/network-probe.ts", import.meta.url));
const setUp = {
  none: "ip link set lo up",
  stale: "ip link set lo up; iptables -N casemate-probe; iptables -A casemate-probe -j RETURN; for uid in 1 231072; do iptables -A OUTPUT -o lo -d 127.0.0.0/8 -m owner --uid-owner $uid -m conntrack --ctstate NEW -j casemate-probe; done",
  ipv4: "ip link set lo up; ip link add up0 type veth peer name peer0; ip addr add 192.0.2.9/24 dev up0; ip link set up0 up; ip link set peer0 up; ip route add default via 192.0.2.1",
  dual: "ip link set lo up; ip link add up0 type veth peer name peer0; ip addr add 192.0.2.9/24 dev up0; ip -6 addr add 2001:db8::9/64 dev up0 nodad; ip link set up0 up; ip link set peer0 up; ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8::1 dev up0",
};

async function probe(t: TestContext, uplink: keyof typeof setUp, request: Omit<ProbeRequest, "folder">, resolvConf = "nameserver 127.0.0.53\n"): Promise<ProbeReport> {
  const folder = mkdtempSync(join(tmpdir(), "casemate-network-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const state = join(folder, "sandbox");
  const resolvPath = join(folder, "resolv.conf");
  writeFileSync(resolvPath, resolvConf);
  // The script is constant; what varies are its arguments.
  const script = `set -e; mkdir "$1"; mount --bind "$2" /etc/resolv.conf; ${setUp[uplink]}; shift 2; exec "$@"`;
  const args = ["--net", "--mount", "sh", "-c", script, "sh", state, resolvPath, process.execPath, probePath, JSON.stringify({ ...request, folder: state })];
  const { stdout } = await runProcess("unshare", args, { timeoutMs: 60_000 });
  const report = JSON.parse(stdout.toString()) as ProbeReport; // printed by network-probe.ts
  assert.deepEqual(report.left, { processes: 0, slots: [], files: [], rules: "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n".repeat(2), records: 0, failures: [] }, "nothing is left");
  return report;
}

test("published ports answer, low ones too, from an unprivileged passt", async (t) => {
  const report = await probe(t, "ipv4", { publish: ["80:8080", "127.0.0.1:8081:81", "53:53/udp", "7000-7001:7000-7001", "90"] });
  assert.equal(report.failure, undefined, report.failure?.message);
  assert.deepEqual(report.published, { "tcp 8080": "tcp 8080", "tcp 81": "tcp 81", "udp 53": "udp 53", "tcp 7000": "tcp 7000", "tcp 7001": "tcp 7001", "tcp 90": "tcp 90" });
  assert.equal(report.passtUser, 231_072);
  assert.match(report.gatewayMac ?? "", /^02:/);
  assert.deepEqual(report.warnings, []);
});

test("a resolver on 127.0.0.53 answers through the forwarded address", async (t) => {
  const report = await probe(t, "ipv4", { publish: [], resolver: true });
  assert.equal(report.nameservers?.length, 1);
  assert.equal(report.dnsAnswer, "answer to example");
});

test("no packet of a guest reaches the host's loopback", async (t) => {
  const report = await probe(t, "dual", { publish: ["80:80", "5353:53/udp"], resolver: true });
  assert.equal(report.loopbackHits, 0, JSON.stringify(report.attacks));
  assert.ok(Object.entries(report.attacks ?? {}).every(([attack, outcome]) => !attack.includes("127.") || outcome !== "connected"), JSON.stringify(report.attacks));
  assert.deepEqual(report.published, { "tcp 80": "tcp 80", "udp 53": "udp 53" }, "published ports are not cut off with it");
});

test("rules that a crashed start of the sandbox has left are replaced, whoever's they were", async (t) => {
  const report = await probe(t, "stale", { publish: ["80:80"], resolver: true });
  assert.equal(report.failure, undefined, report.failure?.message);
  assert.equal(report.loopbackHits, 0, JSON.stringify(report.attacks));
});

test("a host with IPv6 gives the guest an IPv6 address too", async (t) => {
  const report = await probe(t, "dual", { publish: ["[::1]:8080:80"] });
  assert.equal(report.addresses?.length, 2);
  assert.match(report.addresses?.[1] ?? "", /^fd63:6173:a57:[0-9a-f]+::2\/64$/);
  assert.deepEqual(report.published, { "tcp 80": "timeout" }, "the test's guest speaks IPv4 only: passt listens, nobody answers");
});

test("without an uplink published ports work, with one warning", async (t) => {
  const report = await probe(t, "none", { publish: ["80:80", "5353:53/udp"], resolver: true });
  assert.equal(report.failure, undefined, report.failure?.message);
  assert.deepEqual(report.published, { "tcp 80": "tcp 80", "udp 53": "udp 53" });
  assert.equal(report.warnings?.length, 1);
  assert.match(report.warnings?.[0] ?? "", /no default route/);
});

test("a set-up that fails at any step leaves nothing", async (t) => {
  for (const { name: step } of networkSteps) {
    for (const phase of ["before", "after"] as const) {
      const { failure } = await probe(t, "ipv4", { publish: ["80:8080"], failAt: { step, phase } });
      assert.deepEqual([failure?.code, failure?.message], ["resource_exhausted", `set up network: ${step}: injected`]);
    }
  }
  console.log(`set up network: ${networkSteps.length} steps × error before, error after`);
});

test("a taken port is named before anything starts", async (t) => {
  const report = await probe(t, "ipv4", { publish: ["8080:80"], taken: [8080] });
  assert.deepEqual([report.failure?.code, report.failure?.reason], ["failed_precondition", "port_taken"]);
  assert.match(report.failure?.message ?? "", /"8080\/tcp"/);
  assert.ok(report.failure?.hint !== undefined);
});

test("a range of host ports gives its first free one", async (t) => {
  const report = await probe(t, "ipv4", { publish: ["8080-8082:80"], taken: [8080] });
  assert.deepEqual(report.published, { "tcp 80": "tcp 80" });
});

test("an address the host has not is named", async (t) => {
  const report = await probe(t, "ipv4", { publish: ["203.0.113.7:8080:80"] });
  assert.deepEqual([report.failure?.code, report.failure?.reason], ["failed_precondition", "address_missing"]);
});

test("the death of passt is noticed at once", async (t) => {
  const report = await probe(t, "ipv4", { publish: [], killPasst: true });
  assert.ok((report.endedInMs ?? Infinity) < 500, `after ${report.endedInMs} ms`);
});
