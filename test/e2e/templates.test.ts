// Templates as a user meets them.
// - the same container is started for the third time: from a template with it inside; what the key does not hold is
//   given after the restore, and what it holds makes it a start of the first level
// - damage to the layer of such a template is noticed; an image that it holds is kept
// - the host's CPU has other features: another template is made, what ran goes on
// - template ls, inspect, rm, prune, while VMs use them
// - the kernel package is upgraded while a VM runs: two commands at once make one template, both start from it
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { appendFileSync, chmodSync, closeSync, copyFileSync, existsSync, mkdirSync, openSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync, writeSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, test } from "node:test";
import { promisify } from "node:util";
import { awaitMaker } from "../../src/host/containers/ensure-template.ts";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import { cachedKernel } from "../../src/host/guest-image/kernel-package.ts";
import { stateFolders, templatePaths } from "../../src/host/store/paths.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { flockExclusive } from "../../src/shared/linux/flock.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const execute = promisify(execFile);
const within = { timeoutMs: 120_000, intervalMs: 200 };

interface Listed { readonly Key: string; readonly Holds: string; readonly Kernel: string; readonly SizeBytes: number }

describe("templates", { skip }, () => {
  const casemate = useCasemate({ preparedTemplates: true });
  const sleep = ["busybox", "sleep", "100000"];
  const list = async (): Promise<Listed[]> => (await casemate.ok(["template", "ls", "--format", "json"])).split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as Listed);
  const holding = async (title: string): Promise<Listed | undefined> => (await list()).find(({ Holds }) => Holds === title);
  /** Starts a container; what its sandbox was started by. */
  const start = async (name: string, options: readonly string[] = []): Promise<string> => {
    await casemate.ok(["run", "-q", "-d", "--network", "none", "--name", name, ...options, ...sleep]);
    const [{ Sandbox }] = JSON.parse(await casemate.ok(["inspect", name])) as [{ readonly Sandbox: { readonly startedBy: string } }];
    return Sandbox.startedBy;
  };
  const prepared = (): Promise<Listed> => eventually("a template with the container", () => holding(sleep.join(" ")), within);

  test("the third start of a container goes on from a prepared one, and what its making does not fix is its own", async () => {
    assert.equal(await start("first"), "template");
    assert.equal(await start("second"), "template");
    const { Key: key } = await prepared();
    assert.equal(await start("third", ["--label", "a=b", "--stop-timeout", "3"]), "prepared");
    assert.equal(await start("fourth", ["--hostname", "mine"]), "template", "a name that the environment shows");
    assert.equal(await start("fifth", ["-e", "A=b"]), "template");
    const identity = (name: string): Promise<string> => casemate.ok(["exec", name, "sh", "-c", "hostname; cat /etc/hostname; echo mine > /written; cat /written; id -G; grep Groups: /proc/1/status"]);
    const [id] = (await casemate.ok(["ps", "-q", "--filter", "name=third"])).split("\n");
    assert.equal(await identity("third"), `${id}\n${id}\nmine\n0\nGroups:\t0 `);
    const inspected = JSON.parse(await casemate.ok(["template", "inspect", key.slice(0, 6)])) as { readonly key: string; readonly prepared: { readonly title: string }; readonly layer: { readonly hash: string } };
    assert.deepEqual([inspected.key, inspected.prepared.title], [key, sleep.join(" ")]);
    assert.match(inspected.layer.hash, /^[0-9a-f]{64}$/);
    assert.match(await casemate.ok(["template", "ls"]), new RegExp(`^KEY +HOLDS +ACCELERATOR +KERNEL +CREATED +LAST USED +SIZE\n(?:.*\n)*?${key.slice(0, 12)} +busybox sleep 100000 +`));
    await casemate.ok(["rm", "-f", "first", "second", "fourth", "fifth"]);
  });

  test("an image that it holds is kept, and a damaged one is not used; the VM that was started from it goes on", async () => {
    const { Key: key } = await prepared();
    const { layer } = templatePaths(casemate.folders, key);
    chmodSync(layer, 0o600);
    const fd = openSync(layer, "r+");
    writeSync(fd, "?", 1024 + 0x78); // in the name of the file system
    closeSync(fd);
    assert.equal(await start("damaged"), "template");
    assert.equal(await holding(sleep.join(" ")), undefined);
    assert.ok(existsSync(join(casemate.folders.data, "templates/.damaged/template.json")));
    assert.notEqual(key, undefined);
    assert.equal(await casemate.ok(["exec", "third", "cat", "/written"]), "mine");
    await casemate.ok(["rm", "-f", "damaged"]);
    assert.equal((await prepared()).Key, key, "made again");
    assert.equal(await start("again"), "prepared");

    await casemate.ok(["rm", "-f", "again", "third"]);
    const refused = await casemate.run(["rmi", "busybox"]);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, new RegExp(`image "busybox" is used by template ${key.slice(0, 12)}(?:, template [0-9a-f]+)*\nhint: remove what uses it first`));
    assert.doesNotMatch(await casemate.ok(["image", "prune", "-a", "-f"]), /busybox/);
    assert.equal(await start("kept"), "prepared");
    await casemate.ok(["rm", "-f", "kept"]);
    assert.match(await casemate.ok(["rmi", "-f", "busybox"]), /Deleted: /);
    assert.equal(await holding(sleep.join(" ")), undefined, "of no use without its image");
  });

  test("the host's CPU has other features: its templates are not used, another one is made; a VM that runs goes on", async () => {
    assert.equal(await start("former", ["--template", "guest"]), "template");
    const known = (await list()).map(({ Key }) => Key);
    const cpus = readFileSync("/proc/cpuinfo", "latin1");
    const fewer = cpus.replaceAll(/^((?:flags|Features)\s*:.*) \S+$/gm, "$1");
    assert.notEqual(fewer, cpus);
    const shown = join(casemate.folders.data, "cpuinfo");
    writeFileSync(shown, fewer);
    const command = casemate.commandLine(["run", "--rm", "--network", "none", "--template", "guest", "busybox", "echo", "here"]);
    const { stdout, stderr } = await execute("unshare", ["--mount", "--", "sh", "-c", 'mount --bind "$0" /proc/cpuinfo && exec "$@"', shown, ...command], { timeout: within.timeoutMs });
    assert.equal(stdout, "here\n");
    assert.match(stderr, /making a template for fast starts \(once\): /);
    const added = async (): Promise<string[]> => (await list()).filter(({ Key }) => !known.includes(Key)).map(({ Holds }) => Holds);
    assert.deepEqual(await added(), [""]);
    assert.equal(await casemate.ok(["exec", "former", "echo", "here"]), "here");
    assert.equal(await start("same", ["--template", "guest"]), "template");
    assert.deepEqual(await added(), [""], "the CPU of before has its template still");
    await casemate.ok(["rm", "-f", "former", "same"]);
  });

  test("rm and prune remove what is named; VMs that run stay", async () => {
    assert.equal(await start("user", ["--template", "guest"]), "template");
    const [{ Key: key } = { Key: "" }] = await list();
    const unknown = await casemate.run(["template", "rm", "0000", key.slice(0, 8)]);
    assert.equal(unknown.code, 1);
    assert.match(unknown.stderr, /template "0000": no such template\nhint: /);
    assert.ok(!(await list()).some((one) => one.Key === key), "the other one was removed");
    const left = (await list()).map((one) => one.Key).sort();
    assert.deepEqual((await casemate.ok(["template", "prune", "--all"])).split("\n").filter((line) => line !== "").sort(), left);
    assert.deepEqual([await list(), readdirSync(join(casemate.folders.data, "templates")).filter((name) => name !== "seen")], [[], []]);
    assert.equal(await casemate.ok(["exec", "user", "echo", "here"]), "here");
  });

  test("a kernel package is upgraded while a VM runs: two commands at once make one template and start from it", async () => {
    upgradeKernel();
    const runs = await Promise.all(["one", "two"].map((word) => casemate.run(["run", "--rm", "--network", "none", "busybox", "echo", word])));
    for (const [index, { code, stdout, stderr }] of runs.entries()) {
      assert.deepEqual([code, stdout], [0, `${["one", "two"][index]}\n`], stderr);
      assert.match(stderr, /making a template for fast starts \(once\): (starting|booting|warming up|saving)/, "whoever waits is told");
      assert.doesNotMatch(stderr, /booting cold/);
    }
    const [made, ...others] = await list();
    assert.deepEqual([made?.Holds, others], ["", []]);
    assert.equal(await start("new", ["--template", "guest"]), "template");
    assert.equal(await casemate.ok(["exec", "user", "echo", "here"]), "here", "the VM of the former kernel goes on");
    const guestImage = await ensureGuestImage(casemate.folders);
    // Somebody else is at it, and takes longer than we want to wait.
    const key = "f".repeat(32);
    const lock = flockExclusive(templatePaths(casemate.folders, key).makerLock);
    assert.ok(lock !== undefined);
    const choice = await awaitMaker({ folders: casemate.folders, key, guestImage, accelerator: "tcg" }, () => undefined, { timeoutMs: 1_000 });
    closeSync(lock);
    assert.deepEqual(choice, { key: undefined, why: "it is not made within 1 s" });
  });

  /** A package of a later number with another kernel in it, and the machine's modules. */
  function upgradeKernel(): void {
    const present = cachedKernel(stateFolders(undefined));
    assert.ok(present);
    const guest = join(casemate.folders.data, "guest");
    rmSync(guest); // a link to the machine's
    const former = join(present.vmlinux, "..");
    const folder = join(guest, "kernels", `${basename(former)}.1`);
    mkdirSync(folder, { recursive: true });
    symlinkSync(join(former, "lib"), join(folder, "lib"));
    copyFileSync(present.vmlinux, join(folder, "vmlinux"));
    appendFileSync(join(folder, "vmlinux"), "upgraded");
  }
});
