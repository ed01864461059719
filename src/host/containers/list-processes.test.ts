import assert from "node:assert/strict";
import { test } from "node:test";
import { parseProcesses } from "./list-processes.ts";

test("parseProcesses() takes the columns apart, whatever the command holds", () => {
  const text = "USER     PID   PPID  TT     TIME   COMMAND\nroot         1     0 ?       0:05 /init --x\n1000       203   201 pts/0   0:00 sh -c echo  a  1\nroot        77     2 ?       0:00 [kworker/0:1]\n\n";
  assert.deepEqual(parseProcesses(text).map(({ user, pid, parentPid, terminal, time, command }) => [user, pid, parentPid, terminal, time, command]), [
    ["root", 1, 0, "?", "0:05", "/init --x"], ["1000", 203, 201, "pts/0", "0:00", "sh -c echo  a  1"], ["root", 77, 2, "?", "0:00", "[kworker/0:1]"],
  ]);
  assert.deepEqual(parseProcesses(""), []);
});
