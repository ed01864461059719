import assert from "node:assert/strict";
import { test } from "node:test";
import { formatTimings } from "./timings.ts";

test("formatTimings() shows each step in the order they began, below its operation", () => {
  const steps = [
    { operation: "create sandbox", step: "boot VM", startMicros: 1_000n, durationMicros: 60_000n, depth: 0 },
    { operation: "create sandbox", step: "claim user", startMicros: 0n, durationMicros: 500n, depth: 0 },
    { operation: "create container", step: "plug disks", startMicros: 61_000n, durationMicros: 30_000n, depth: 0 },
    { operation: "create container", step: "in the guest", startMicros: 61_000n, durationMicros: 20_000n, depth: 1 },
    { operation: "create container", step: "crun", startMicros: 62_000n, durationMicros: 10_000n, depth: 2 },
  ];
  assert.equal(formatTimings(steps), [
    "create sandbox",
    "  claim user          +0 ms      0.5 ms",
    `  boot VM             +1 ms     60.0 ms ${"#".repeat(30)}`,
    "create container",
    `  plug disks         +61 ms     30.0 ms ${"#".repeat(15)}`,
    `    in the guest     +61 ms     20.0 ms ${"#".repeat(10)}`,
    `      crun           +62 ms     10.0 ms ${"#".repeat(5)}`,
    "in all 91 ms",
    "",
  ].join("\n"));
  assert.equal(formatTimings([]), "in all 0 ms\n");
});
