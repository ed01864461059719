import assert from "node:assert/strict";
import { test } from "node:test";
import { formatTable } from "./table.ts";

const rows = [["aaaaaaaaaaaa", "registry.example.org/some/long/name:tag", "Up 5 seconds", "web"], ["bbbbbbbbbbbb", "busybox", "Exited (0) 3 hours ago", "a-name-of-some-length"]];
const header = ["CONTAINER ID", "IMAGE", "STATUS", "NAMES"];

test("columns are as wide as their widest cell, the last one as its own", () => {
  assert.equal(formatTable(["ID", "NAMES"], [["1234567890", "x"], ["1", "yy"]], Infinity), "ID           NAMES\n1234567890   x\n1            yy\n");
});

test("a table that is too wide is cut in its widest columns until it fits", () => {
  const whole = formatTable(header, rows, Infinity).split("\n");
  const widest = Math.max(...whole.map((line) => line.length));
  assert.deepEqual(formatTable(header, rows, widest).split("\n"), whole, "one that fits stays as it is");
  for (const width of [90, 80, 60, 49]) {
    const lines = formatTable(header, rows, width).split("\n");
    assert.ok(Math.max(...lines.map((line) => line.length)) <= width, String(width));
    assert.match(lines[1] ?? "", /^aaaaaaaaa.* registry.*…/);
  }
});

test("in a terminal that is narrower than any table, the columns keep ten characters", () => {
  assert.equal(formatTable(header, rows, 5).split("\n")[1], "aaaaaaaaa…   registry.…   Up 5 seco…   web");
});
