import assert from "node:assert/strict";
import { test } from "node:test";
import { parseProcesses, splitColumns } from "./list-processes.ts";

test("parseProcesses() takes the columns apart, whatever the command holds", () => {
  const text = "PID   USER     TT     STAT   COMMAND\n    1 root         ?       S    /init --x\n  203 1000  136,0   R< sh -c echo  a  1\n   77 root     ?       R< [kworker/0:1]\n\n";
  assert.deepEqual([...parseProcesses(text, ["pid", "user", "tty", "stat", "args"]).values()].map((facts) => Object.values(facts)), [
    ["1", "root", "?", "S", "/init --x"], ["203", "1000", "pts/0", "R<", "sh -c echo  a  1"], ["77", "root", "?", "R<", "[kworker/0:1]"],
  ]);
  assert.deepEqual([...parseProcesses("", ["pid"])], []);
  assert.deepEqual([...parseProcesses("PID\n    9\n", ["pid"])], [[9, { pid: "9" }]]);
});

test("splitColumns() never puts two columns with blanks into one list", () => {
  assert.deepEqual(splitColumns(["args", "user", "pid", "comm"]), [["pid", "user", "args"], ["pid", "comm"]]);
  assert.deepEqual(splitColumns(["comm", "rss"]), [["pid", "rss", "comm"]]);
  assert.deepEqual(splitColumns([]), [["pid"]]);
});
