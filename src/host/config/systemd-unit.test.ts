import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { formatUnit, installUnit, removeUnit, unitFolder } from "./systemd-unit.ts";

test("a word that systemd would read otherwise is quoted", () => {
  const text = formatUnit({ command: ["/opt/case mate/bin/casemate", "--root", "/a%b$c\"d"], user: false });
  assert.match(text, /^ExecStart="\/opt\/case mate\/bin\/casemate" --root "\/a%%b\$\$c\\"d" setup start$/m);
  assert.match(text, /^WantedBy=multi-user\.target$/m);
  assert.match(formatUnit({ command: ["/usr/bin/casemate"], user: true }), /^ExecStop=\/usr\/bin\/casemate setup stop$[^]*^WantedBy=default\.target$/m);
});

test("a unit is written with its link, again without harm, and taken away with it", () => {
  const folder = mkdtempSync("/tmp/cm-unit-");
  try {
    for (const command of [["/old"], ["/new"]]) installUnit(folder, { command, user: false });
    const link = join(folder, "multi-user.target.wants/casemate.service");
    assert.equal(readlinkSync(link), "../casemate.service");
    assert.match(readFileSync(link, "utf8"), /^ExecStart=\/new setup start$/m);
    assert.deepEqual([removeUnit(folder, false), removeUnit(folder, false)], [true, false]);
    assert.equal(existsSync(link), false);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("a user's unit is in the user's folder", () => {
  assert.equal(unitFolder(true, { HOME: "/h/me" }), "/h/me/.config/systemd/user");
  assert.equal(unitFolder(true, { HOME: "/h/me", XDG_CONFIG_HOME: "/cfg" }), "/cfg/systemd/user");
  assert.equal(unitFolder(false), "/etc/systemd/system");
});
