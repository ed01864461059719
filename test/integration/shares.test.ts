// Host folders in a guest, through virtiofsd, seen from a real guest (TCG, busybox).
// - a folder, a folder read-only and a single file, added while the guest runs, and taken back
// - read-only is enforced by the host; a guest can put nothing beside the mount points
// - owners, modes, xattrs of root pass through; a file replaced by rename on the host is seen
// - symbolic links of a guest lead nowhere on the host
// - the folder is taken away and served again, also by an owner that took over; the loss of virtiofsd is told while it is relied on
// - nothing is left: no mount, process or file; the user's files stay
import assert from "node:assert/strict";
import { chownSync, existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { FolderShares } from "../../src/host/storage/shares/shares.ts";
import { Ledger } from "../../src/host/store/ledger.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { UndoStack } from "../../src/shared/base/undo.ts";
import { signalProcess, type ProcessIdentity } from "../../src/shared/linux/proc.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { requires } from "../support/requires.ts";
import { ShareGuest } from "../support/share-guest.ts";

const skip = requires("root");
const folder = mkdtempSync(join(tmpdir(), "casemate-shares-"));
const sandboxFolder = join(folder, "sandbox");
const source = join(folder, "source");
const undo = new UndoStack();
let shares: FolderShares;
let guest: ShareGuest;
let ledger: Ledger;
const inGuest: Record<string, string> = {};

before(async () => {
  if (skip !== false) return;
  mkdirSync(sandboxFolder);
  mkdirSync(join(source, "sub"), { recursive: true });
  writeFileSync(join(source, "greeting"), "hello\n");
  ledger = Ledger.open(join(sandboxFolder, "ledger.json"));
  shares = new FolderShares({ sandboxId: "shares-test", sandboxFolder, sharePath: join(sandboxFolder, "share") }, ledger);
  const device = await shares.serve(undo);
  guest = await ShareGuest.boot(device.fd, device.tag, shares.guestMountPoint);
  inGuest["rw"] = await shares.add("c1-0", source, false, undo);
  inGuest["ro"] = await shares.add("c1-1", source, true, undo);
  inGuest["file"] = await shares.add("c1-2", join(source, "greeting"), true, undo);
});

after(async () => {
  if (skip !== false) return;
  await guest.end();
  assert.deepEqual(await undo.run(), []);
  assert.deepEqual(ledger.records, []);
  assert.deepEqual(findTaggedProcesses("shares-test/virtiofsd"), []);
  assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(folder), "no mount is left");
  assert.deepEqual(readdirSync(sandboxFolder), ["ledger.json"]);
  assert.equal(readFileSync(join(source, "greeting"), "utf8").slice(0, 5), "hello");
  rmSync(folder, { recursive: true, force: true });
});

test("folders and files added later are there, and both ways are seen", { skip }, async () => {
  assert.equal(await guest.sh(`cat ${inGuest["rw"]}/greeting ${inGuest["ro"]}/greeting ${inGuest["file"]}`), "hello\nhello\nhello");
  await guest.sh(`echo from the guest > ${inGuest["rw"]}/sub/note`);
  assert.equal(readFileSync(join(source, "sub/note"), "utf8"), "from the guest\n");
  assert.equal(await guest.sh(`cat ${inGuest["ro"]}/sub/note`), "from the guest");
});

test("read-only holds against the guest's root, remounts included", { skip }, async () => {
  for (const attempt of [`touch ${inGuest["ro"]}/x`, `rm ${inGuest["ro"]}/greeting`, `echo x > ${inGuest["file"]}`, `mount -o remount,rw ${inGuest["ro"]}; touch ${inGuest["ro"]}/x`, `chmod 777 ${inGuest["ro"]}/greeting`]) {
    await assert.rejects(guest.sh(attempt), /Read-only file system/, attempt);
  }
});

test("a guest can put nothing beside the mount points", { skip }, async () => {
  await assert.rejects(guest.sh(`ln -s /etc ${shares.guestMountPoint}/c1-9`), /Read-only file system/);
  await assert.rejects(guest.sh(`rmdir ${shares.guestMountPoint}/c1-0`), /busy|Read-only/);
});

test("owners and modes pass through, device nodes do not", { skip }, async () => {
  await guest.sh(`cd ${inGuest["rw"]} && touch owned && chown 1234:5678 owned && chmod 4750 owned`);
  const { uid, gid, mode } = statSync(join(source, "owned"));
  assert.deepEqual([uid, gid, mode & 0o7777], [1234, 5678, 0o4750]);
  chownSync(join(source, "owned"), 42, 43);
  assert.equal(await guest.sh(`stat -c %u:%g ${inGuest["rw"]}/owned`), "42:43");
  await assert.rejects(guest.sh(`mknod ${inGuest["rw"]}/disk b 8 0`), /not permitted/);
  await guest.sh(`mkfifo ${inGuest["rw"]}/fifo`);
});

test("a file replaced by rename on the host is seen at the next look", { skip }, async () => {
  for (const version of ["second", "third", "a fourth and longer one"]) {
    writeFileSync(join(source, ".new"), version);
    renameSync(join(source, ".new"), join(source, "config"));
    assert.equal(await guest.sh(`cat ${inGuest["rw"]}/config`), version);
  }
});

test("symbolic links lead to the guest's own files, whoever made them", { skip }, async () => {
  symlinkSync("/etc/hostname", join(source, "host-link"));
  await guest.sh(`ln -s / ${inGuest["rw"]}/guest-link; mkdir -p /etc; echo guest > /etc/hostname`);
  assert.equal(await guest.sh(`cat ${inGuest["rw"]}/host-link`), "guest");
  assert.equal(await guest.sh(`cat ${inGuest["rw"]}/guest-link/etc/hostname`), "guest");
  assert.ok(lstatSync(join(source, "guest-link")).isSymbolicLink());
});

test("a volume that is taken back is gone from the guest and its files stay on the host", { skip }, async () => {
  const other = join(folder, "other");
  mkdirSync(other);
  writeFileSync(join(other, "kept"), "kept");
  const path = await shares.add("c2-0", other, false, undo);
  assert.equal(await guest.sh(`cat ${path}/kept`), "kept");
  await shares.remove("c2-0");
  await shares.remove("c2-0");
  await assert.rejects(guest.sh(`umount ${path} 2>/dev/null; cat ${path}/kept`), /No such file/);
  assert.equal(readFileSync(join(other, "kept"), "utf8"), "kept");
});

test("a mount below the source comes along, read-only too, and survives our unmount", { skip }, async (t) => {
  const nested = join(folder, "nested");
  mkdirSync(join(nested, "tmpfs"), { recursive: true });
  await runProcess("mount", ["-t", "tmpfs", "casemate-test", join(nested, "tmpfs")]);
  t.after(async () => { await runProcess("umount", [join(nested, "tmpfs")]); });
  writeFileSync(join(nested, "tmpfs/deep"), "deep");
  const path = await shares.add("c3-0", nested, true, undo);
  assert.equal(await guest.sh(`cat ${path}/tmpfs/deep`), "deep");
  await assert.rejects(guest.sh(`touch ${path}/tmpfs/x`), /Read-only/);
  await shares.remove("c3-0");
  assert.ok(existsSync(join(nested, "tmpfs/deep")), "the host's mount is still there");
});

test("a source that cannot be shared is an error, and nothing stays of it", { skip }, async () => {
  for (const [name, path, code] of [["c4-0", join(folder, "missing"), "not_found"], ["c4-1", "/dev/null", "failed_precondition"]] as const) {
    const attempt = new UndoStack();
    await assert.rejects(shares.add(name, path, false, attempt), (error) => RuntimeError.is(error, code) && error.message.includes(path));
    assert.deepEqual(await attempt.run(), []);
  }
  assert.ok(!ledger.records.some(({ name }) => name.startsWith("c4-")));
});

test("the folder is taken away and served again, and an owner that takes over knows whether it is relied on", { skip }, async (t) => {
  const own = join(folder, "own");
  mkdirSync(own);
  const path = join(own, "ledger.json"), request = { sandboxId: "shares-again", sandboxFolder: own, sharePath: join(own, "share") };
  const ledger = Ledger.open(path), givenBack = new UndoStack();
  const again = new FolderShares(request, ledger);
  const lost = async (one: FolderShares, withinMs: number): Promise<boolean> => Promise.race([one.lost.then(() => true), delay(withinMs, false)]);
  const servers = (): ProcessIdentity[] => findTaggedProcesses("shares-again/virtiofsd");
  t.after(() => givenBack.run());
  await again.serve(givenBack);
  assert.deepEqual([again.serving, servers().length > 0], [true, true]);
  await again.withdraw();
  await again.withdraw();
  assert.deepEqual([again.serving, servers(), ledger.records.map(({ kind }) => kind)], [false, [], ["share-folder"]]);
  assert.equal(await lost(again, 200), false, "it was asked for");

  await again.serve(givenBack);
  assert.equal(FolderShares.adopt(request, Ledger.open(path)).serving, false, "nothing is shown");
  await again.add("c1-0", source, true, givenBack);
  const adopted = FolderShares.adopt(request, Ledger.open(path));
  assert.deepEqual([adopted.serving, servers().length > 0], [true, true]);
  for (const server of servers()) signalProcess(server, "SIGKILL");
  assert.deepEqual([await lost(adopted, 5_000), await lost(again, 5_000)], [true, true]);
  // What ends the first server ends the second, and the folder goes after it.
  assert.deepEqual(await givenBack.run(), []);
  assert.deepEqual([ledger.records, readdirSync(own)], [[], ["ledger.json"]]);
});
