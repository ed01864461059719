import assert from "node:assert/strict";
import { test } from "node:test";
import { parseProcesses } from "./list-processes.ts";

test("parseProcesses() takes the columns apart, whatever the command holds", () => {
  const text = "USER     PID   PPID  TT     STAT   COMMAND\nroot         1     0 ?       S    /init --x\n1000       203   201 pts/0   R< sh -c echo  a  1\nroot        77     2 ?       R< [kworker/0:1]\n\n";
  assert.deepEqual(parseProcesses(text).map(({ user, pid, parentPid, terminal, state, command }) => [user, pid, parentPid, terminal, state, command]), [
    ["root", 1, 0, "?", "S", "/init --x"], ["1000", 203, 201, "pts/0", "R<", "sh -c echo  a  1"], ["root", 77, 2, "?", "R<", "[kworker/0:1]"],
  ]);
  assert.deepEqual(parseProcesses(""), []);
});
