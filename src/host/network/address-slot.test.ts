import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { addressSlotKind, parseSlotRange, slotAddresses, type SlotRecord } from "./address-slot.ts";

function temporaryFolder(t: { after(clean: () => void): void }): string {
  const folder = mkdtempSync(join(tmpdir(), "casemate-slots-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function claim(folder: string, sandboxId: string, range = "10.87.0.0/16"): Promise<{ record: SlotRecord; slot: number }> {
  const spec = { folder, sandboxId, range: parseSlotRange(range) };
  let record = addressSlotKind.plan(spec);
  const held = await addressSlotKind.act(record, spec, (precise) => { record = precise; });
  return { record, slot: held.slot };
}

test("slotAddresses() cuts networks of 8 addresses, with an IPv6 network of their own", () => {
  const range = parseSlotRange("10.87.0.0/16");
  assert.equal(range.slotCount, 8192);
  assert.deepEqual(slotAddresses(range, 33), {
    slot: 33,
    ipv4: { gateway: "10.87.1.9", guest: "10.87.1.10", resolver: "10.87.1.11", prefixLength: 29 },
    ipv6: { gateway: "fd63:6173:a57:108::1", guest: "fd63:6173:a57:108::2", resolver: "fd63:6173:a57:108::3", prefixLength: 64 },
  });
  assert.equal(slotAddresses(range, 8191).ipv4.guest, "10.87.255.250");
  assert.equal(slotAddresses(parseSlotRange("192.168.200.0/24"), 31).ipv4.gateway, "192.168.200.249");
});

test("parseSlotRange() refuses what is not a usable network", () => {
  for (const bad of ["", "10.87.0.0", "10.87.0.0/30", "10.0.0.0/7", "10.87.0.1/16", "300.0.0.0/8", "fd00::/64", "10.87.0.0/16x"]) {
    assert.throws(() => parseSlotRange(bad), (error) => RuntimeError.is(error, "invalid_argument"), bad);
  }
});

test("two sandboxes never hold one slot, and a released one can be claimed again", async (t) => {
  const folder = temporaryFolder(t);
  const claims = await Promise.all(["a", "b", "c", "d"].map((id) => claim(folder, id, "10.87.0.0/27")));
  assert.deepEqual(claims.map(({ slot }) => slot).sort(), [0, 1, 2, 3]);
  await assert.rejects(claim(folder, "e", "10.87.0.0/27"), (error) => RuntimeError.is(error, "resource_exhausted") && error.hint !== undefined);
  const [first] = claims;
  assert.ok(first);
  await addressSlotKind.release(first.record);
  await addressSlotKind.release(first.record);
  assert.equal((await claim(folder, "e", "10.87.0.0/27")).slot, first.slot);
});

test("release() frees a claim whose number was never written down, and nobody else's", async (t) => {
  const folder = temporaryFolder(t);
  const { record, slot } = await claim(folder, "a");
  writeFileSync(join(folder, ".draft-a"), "a");
  const other = await claim(folder, "b");
  await addressSlotKind.release({ ...record, slot: -1 });
  assert.deepEqual(readdirSync(folder), [String(other.slot)]);
  await addressSlotKind.release({ ...record, slot: other.slot });
  assert.deepEqual(readdirSync(folder), [String(other.slot)], `slot ${slot}`);
});
