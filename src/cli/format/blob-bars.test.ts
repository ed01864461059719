import assert from "node:assert/strict";
import { test } from "node:test";
import type { BlobProgress } from "../../host/storage/images/blob-progress.ts";
import { BlobBars } from "./blob-bars.ts";

const copying = (id: string, doneBytes: number, totalBytes: number | undefined): BlobProgress => ({ id, state: "copying", doneBytes, totalBytes });
const copied: BlobProgress = { id: "aaaaaaaaaaaa", state: "copied", doneBytes: 2_000_000, totalBytes: 2_000_000 };
const here: BlobProgress = { id: "bbbbbbbbbbbb", state: "here", doneBytes: 0, totalBytes: undefined };

test("a bar has the sizes and the rate of late, and fits the terminal", () => {
  const bars = new BlobBars(0);
  assert.equal(bars.summary(0), "");
  bars.update([copied, here, copying("cccccccccccc", 0, 40_000_000)], 0);
  bars.update([copied, here, copying("cccccccccccc", 10_000_000, 40_000_000)], 1_000);
  assert.equal(bars.summary(2_000), "12MB, 5MB/s, 1 of 2 blobs");
  assert.deepEqual(bars.lines(2_000, { columns: 100, colours: false }), ["  cccccccccccc [==========                              ] 10MB / 40MB  5MB/s"]);
  assert.deepEqual(bars.lines(2_000, { columns: 100, colours: true }), ["  cccccccccccc [\x1b[32m==========\x1b[39m                              ] 10MB / 40MB  5MB/s"]);
  assert.deepEqual(bars.lines(2_000, { columns: 50, colours: false }), ["  cccccccccccc [===          ] 10MB / 40MB  5MB/s"]);
  assert.deepEqual(bars.lines(2_000, { columns: 30, colours: true }), ["  cccccccccccc  10MB / 40MB  "]);
  // Of a long copy, only the last seconds count.
  bars.update([copying("cccccccccccc", 10_000_000, 40_000_000)], 50_000);
  bars.update([copying("cccccccccccc", 20_000_000, 40_000_000)], 60_000);
  bars.update([copying("cccccccccccc", 30_000_000, 40_000_000)], 65_000);
  assert.equal(bars.summary(70_000), "30MB, 1MB/s, 0 of 1 blobs");
});

test("a blob of unknown size has no bar, and one that is larger than announced has a full one", () => {
  const bars = new BlobBars(0);
  bars.update([copying("cccccccccccc", 3_000, undefined), copying("dddddddddddd", 9_000, 3_000)], 500);
  assert.deepEqual(bars.lines(1_000, { columns: 50, colours: false }), ["  cccccccccccc  3kB  3kB/s", "  dddddddddddd [===============] 9kB / 3kB  9kB/s"]);
});
