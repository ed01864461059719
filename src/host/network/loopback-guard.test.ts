import assert from "node:assert/strict";
import { test } from "node:test";
import { guardRules } from "./loopback-guard.ts";

test("guardRules() refuses new connections to loopback but the forwarded resolver", () => {
  const ipv4 = { loopback: "127.0.0.0/8", isMine: (address: string) => address.startsWith("127.") };
  assert.deepEqual(guardRules({ chain: "casemate-7", uid: 200_001 }, ipv4, ["127.0.0.53", "192.0.2.1", "::1"]), [
    "-A casemate-7 -d 127.0.0.53 -p udp --dport 53 -j RETURN",
    "-A casemate-7 -j REJECT",
    "-I OUTPUT 1 -o lo -d 127.0.0.0/8 -m owner --uid-owner 200001 -m conntrack --ctstate NEW -j casemate-7",
  ]);
});
