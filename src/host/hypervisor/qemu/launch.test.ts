import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, mkdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { qemuProgram } from "./arguments.ts";
import { findQemu } from "./find-qemu.ts";
import { confine, type Confinement } from "./launch.ts";

const unconfined: Confinement = { user: undefined, groups: [], cgroupProcs: undefined, netns: undefined };
const user = { uid: 1_900_000_007, gid: 1_900_000_007 };
const dropped = (groups: string): string => `setpriv --reuid=1900000007 --regid=1900000007 ${groups} --no-new-privs --bounding-set=-all --inh-caps=-all -- qemu -a b`;

/** One line a case: the confinement, and the command line that starts `qemu -a b` in it. */
const table: readonly [what: string, confinement: Partial<Confinement>, expected: string][] = [
  ["our own user", {}, "qemu -a b"],
  ["our own user in a cgroup", { cgroupProcs: "/c/cgroup.procs" }, 'sh -c echo $$ >"$0" && exec "$@" /c/cgroup.procs qemu -a b'],
  ["our own user cannot enter a network namespace", { netns: "/run/netns/n" }, "qemu -a b"],
  ["a user of its own", { user }, `unshare --mount --ipc --uts --net -- ${dropped("--clear-groups")}`],
  ["a user in a group", { user, groups: [104, 44] }, `unshare --mount --ipc --uts --net -- ${dropped("--groups=104,44")}`],
  ["a user in a network namespace", { user, netns: "/run/netns/n" }, `nsenter --net=/run/netns/n -- unshare --mount --ipc --uts -- ${dropped("--clear-groups")}`],
  ["everything", { user, groups: [104], cgroupProcs: "/c/cgroup.procs", netns: "/run/netns/n" },
    `sh -c echo $$ >"$0" && exec "$@" /c/cgroup.procs nsenter --net=/run/netns/n -- unshare --mount --ipc --uts -- ${dropped("--groups=104")}`],
];

for (const [what, confinement, expected] of table) {
  test(`confine(): ${what}`, () => {
    const { file, args } = confine({ ...unconfined, ...confinement }, "qemu", ["-a", "b"]);
    assert.equal([file, ...args].join(" "), expected);
  });
}

test("confine() hands arguments on one by one, whatever is in them", () => {
  const odd = ["a b", "$(reboot)", "'; x", "", "-append", "a\nb"];
  for (const confinement of [unconfined, { ...unconfined, cgroupProcs: "/c" }, { ...unconfined, user }]) assert.deepEqual(confine(confinement, "qemu", odd).args.slice(-odd.length), odd);
});

test("findQemu() takes the first one on the path, by its real name", (t) => {
  const folder = mkdtempSync(join(realpathSync(tmpdir()), "casemate-find-"));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const name of ["a", "b", "real"]) mkdirSync(join(folder, name));
  writeFileSync(join(folder, "real/qemu"), "");
  chmodSync(join(folder, "real/qemu"), 0o755);
  symlinkSync(join(folder, "real/qemu"), join(folder, "b", qemuProgram));
  assert.equal(findQemu(`${join(folder, "a")}::${join(folder, "b")}`), join(folder, "real/qemu"));
  assert.throws(() => findQemu(join(folder, "a")), (error) => RuntimeError.is(error, "not_found") && error.reason === "tool_missing" && error.hint?.includes("apt-get install") === true);
});
