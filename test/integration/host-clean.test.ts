// assertHostClean() must see one leak of each kind, and name it:
// - a mount, a process, a loop device, a network link, a network namespace, a cgroup
// - a unix socket, also an abstract one, a temporary file, shared memory, a file in a state folder
// Each leak is made on purpose and taken back by the test.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, rmdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { watchHost } from "../support/host-clean.ts";
import { requires } from "../support/requires.ts";

const folder = mkdtempSync(join(tmpdir(), "casemate-clean-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Makes one leak; returns how to take it back. */
type Leak = () => Promise<() => void | Promise<void>>;

const leaks: Readonly<Record<string, readonly [make: Leak, named: RegExp]>> = {
  mount: [async () => {
    const target = join(folder, "mounted");
    mkdirSync(target);
    run("mount", "-t", "tmpfs", "leak", target);
    return () => { run("umount", target); rmdirSync(target); };
  }, /mount: .*\/mounted /],
  process: [async () => {
    const child = spawn("sleep", ["1000"], { stdio: "ignore", detached: true });
    return () => { child.kill("SIGKILL"); };
  }, /process: \d+ \(started at tick \d+\) sleep 1000/],
  "loop device": [async () => {
    const file = join(folder, "disk");
    writeFileSync(file, Buffer.alloc(1024 * 1024));
    const device = run("losetup", "--find", "--show", file).trim();
    return () => { run("losetup", "--detach", device); rmSync(file); };
  }, /loop device: \/dev\/loop\d+ of .*\/disk/],
  "network link": [async () => {
    run("ip", "tuntap", "add", "cm-leak0", "mode", "tap");
    return () => { run("ip", "link", "delete", "cm-leak0"); };
  }, /network link: cm-leak0/],
  "network namespace": [async () => {
    run("ip", "netns", "add", "cm-leak");
    return () => { run("ip", "netns", "delete", "cm-leak"); };
  }, /network namespace: cm-leak/],
  cgroup: [async () => {
    const hierarchy = / (\/\S+) \S+(?: \S+:\S+)* - cgroup2? /.exec(readFileSync("/proc/self/mountinfo", "utf8"))?.[1];
    assert.ok(hierarchy !== undefined, "this host has no cgroups");
    const group = join(hierarchy, "cm-leak");
    mkdirSync(group);
    return () => rmdirSync(group);
  }, /cgroup: .*\/cm-leak/],
  "unix socket": [async () => listen(join(folder, "leak.sock")), /unix socket: .*\/leak\.sock/],
  "abstract socket": [async () => listen("\0cm-leak"), /unix socket: @cm-leak/],
  "temporary file": [async () => file("/tmp/cm-leak"), /temporary file: \/tmp\/cm-leak/],
  "shared memory": [async () => file("/dev/shm/cm-leak"), /temporary file: \/dev\/shm\/cm-leak/],
  state: [async () => file(join(folder, "container.json")), /state: .*\/container\.json/],
};

for (const [kind, [make, named]] of Object.entries(leaks)) {
  test(`assertHostClean() reports a leaked ${kind} and passes once it is gone`, { skip: requires("root") }, async () => {
    const { assertHostClean } = watchHost({ folders: [folder], graceMs: 300 });
    const takeBack = await make();
    try {
      await assert.rejects(assertHostClean(), named);
    } finally {
      await takeBack();
    }
    await assertHostClean();
  });
}

test("assertHostClean() waits for what is about to end", async () => {
  const { assertHostClean } = watchHost({ folders: [folder] });
  spawn("sleep", ["0.5"], { stdio: "ignore" });
  await assertHostClean();
});

test("assertHostClean() does not take a process for another one with its pid", async () => {
  const child = spawn("sleep", ["1000"], { stdio: "ignore" });
  const { assertHostClean } = watchHost({ folders: [folder], graceMs: 300 });
  child.kill("SIGKILL");
  await assertHostClean();
});


function run(file: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(file, args, { encoding: "utf8" });
  assert.equal(status, 0, `${file} ${args.join(" ")}: ${stderr}`);
  return stdout;
}

async function listen(path: string): Promise<() => Promise<void>> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return () => new Promise((resolve) => server.close(() => resolve()));
}

function file(path: string): () => void {
  writeFileSync(path, "");
  return () => rmSync(path);
}
