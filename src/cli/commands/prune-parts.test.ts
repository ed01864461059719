import assert from "node:assert/strict";
import { test } from "node:test";
import { isPruned, parsePruneFilter } from "./prune-parts.ts";

const now = Date.parse("2026-03-01T12:00:00Z");
const hourMs = 3_600_000;

const cases: readonly (readonly [filters: readonly string[], createdAtUnixMs: number, labels: Readonly<Record<string, string>>, pruned: boolean])[] = [
  [[], now, {}, true],
  [["until=90m"], now - hourMs, {}, false],
  [["until=1h30m"], now - 2 * hourMs, {}, true],
  [["until=1h30m", "until=3h"], now - 2 * hourMs, {}, false],
  [["until=2026-02-28T00:00:00Z"], now - 48 * hourMs, {}, true],
  [["until=2026-02-28T00:00:00Z"], now - 24 * hourMs, {}, false],
  [[`until=${now / 1000 - 7200}`], now - hourMs, {}, false],
  [["label=a"], now, { a: "1" }, true],
  [["label=a=2"], now, { a: "1" }, false],
  [["label=a", "label=b"], now, { a: "1" }, false],
  [["label!=a"], now, { a: "1" }, false],
  [["label!=a=2"], now, { a: "1" }, true],
  [["label=a", "label!=keep", "until=1h"], now - 2 * hourMs, { a: "", b: "" }, true],
];

for (const [filters, createdAtUnixMs, labels, pruned] of cases) {
  test(`prune ${filters.join(" ")} of ${JSON.stringify(labels)} made ${(now - createdAtUnixMs) / hourMs} h ago`, () => {
    assert.equal(isPruned(parsePruneFilter(filters, now), createdAtUnixMs, labels), pruned);
  });
}

test("parsePruneFilter() refuses other keys, and times that are none", () => {
  assert.throws(() => parsePruneFilter(["name=x"]), /must be until=, label=, label!=$/);
  assert.throws(() => parsePruneFilter(["until=soon"]), /--filter until "soon": must be a date/);
});
