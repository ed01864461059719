import assert from "node:assert/strict";
import { test } from "node:test";
import { resolvConf } from "./etc-files.ts";

const before = "nameserver 10.0.0.3\nsearch old.example\noptions edns0\n";
const nothing = { dns: [], dnsSearch: [], dnsOptions: [] };

test("resolvConf() replaces what is given and keeps the rest", () => {
  assert.equal(resolvConf(before, { ...nothing, dns: ["9.9.9.9", "1.1.1.1"] }), "nameserver 9.9.9.9\nnameserver 1.1.1.1\nsearch old.example\noptions edns0\n");
  assert.equal(resolvConf(before, { ...nothing, dnsSearch: ["a.example", "b.example"] }), "nameserver 10.0.0.3\noptions edns0\nsearch a.example b.example\n");
  assert.equal(resolvConf(before, { ...nothing, dnsOptions: ["ndots:2"] }), "nameserver 10.0.0.3\nsearch old.example\noptions ndots:2\n");
});
