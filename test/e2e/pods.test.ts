// Several containers in one sandbox, through the command.
// - they share network, host name, IPC and /dev/shm, and have their own files and limits
// - containers come and go while the others run; the sandbox ends with the last one, or with the first
// - with --share-pid they see each other's processes
// - a pod is saved and forked whole, once none of its containers shows a folder of the host; folders can be shown afterwards
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { requires } from "../support/requires.ts";
import { useCasemate } from "../support/cli.ts";

const skip = requires("root");
const casemate = useCasemate();

interface Pod { readonly Name: string; readonly Status: string; readonly Containers: readonly { readonly Name: string; readonly Status: string }[] }

async function podOf(name: string): Promise<Pod | undefined> {
  const lines = (await casemate.ok(["pod", "ps", "--format", "json"])).split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as Pod).find((pod) => pod.Name === name); // as describe() in pod.ts makes it
}

test("a pod's containers share what a pod shares, and end on their own", { skip }, async () => {
  await casemate.ok(["pod", "create", "--share-pid", "shop"]);
  assert.deepEqual(await podOf("shop"), { ...await podOf("shop"), Status: "stopped", Containers: [] });
  await casemate.ok(["pod", "run", "-d", "--name", "web", "shop", "busybox", "sh", "-c", "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"]);
  assert.equal(await casemate.ok(["pod", "run", "--rm", "shop", "busybox", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://localhost && break; sleep 1; done; hostname; ls /www 2>&1 | grep -c index; echo shared > /dev/shm/x; ps | grep -c '[h]ttpd -f'"]), "hello\nshop\n0\n1");
  assert.equal(await casemate.ok(["exec", "web", "cat", "/dev/shm/x"]), "shared");
  await casemate.ok(["pod", "run", "-d", "--name", "job", "-m", "64m", "shop", "busybox", "sleep", "1000"]);
  assert.equal(await casemate.ok(["exec", "job", "cat", "/sys/fs/cgroup/memory.max"]), String(64 * 1024 ** 2));
  assert.deepEqual((await podOf("shop"))?.Containers.map(({ Name, Status }) => `${Name} ${Status}`), ["web running", "job running"]);
  await casemate.ok(["stop", "-t", "1", "job"]);
  await casemate.ok(["rm", "job"]);
  assert.equal(await casemate.ok(["exec", "web", "echo", "still here"]), "still here");
  const refused = await casemate.run(["pod", "rm", "shop"]);
  assert.deepEqual([refused.code, /1 of its containers run/.test(refused.stderr)], [1, true], refused.stderr);
  // With the last one the sandbox ends, and a later start brings it back.
  await casemate.ok(["stop", "-t", "1", "web"]);
  await eventually("the end of the sandbox", async () => ((await podOf("shop"))?.Status === "stopped" ? true : undefined), { timeoutMs: 30_000, intervalMs: 500 });
  await casemate.ok(["start", "web"]);
  assert.equal((await podOf("shop"))?.Status, "running");
  await casemate.ok(["pod", "rm", "-f", "shop"]);
  assert.equal(await podOf("shop"), undefined);
  assert.equal(await casemate.ok(["ps", "-aq"]), "");
});

test("a pod that ends with its first container takes the others along", { skip }, async () => {
  await casemate.ok(["pod", "create", "--network", "none", "--ending", "first", "main"]);
  await casemate.ok(["pod", "run", "-d", "--name", "first", "main", "busybox", "sleep", "1000"]);
  await casemate.ok(["pod", "run", "-d", "--name", "second", "main", "busybox", "sleep", "1000"]);
  await casemate.ok(["kill", "first"]);
  await eventually("the end of the sandbox", async () => ((await podOf("main"))?.Status === "stopped" ? true : undefined), { timeoutMs: 30_000, intervalMs: 500 });
  assert.deepEqual((await podOf("main"))?.Containers.map(({ Status }) => Status), ["exited", "exited"]);
  await casemate.ok(["pod", "stop", "main"]);
  await casemate.ok(["pod", "rm", "main"]);
});

test("a pod is copied with all its containers, once none of them shows a folder of the host", { skip }, async () => {
  const folder = mkdtempSync("/tmp/cm-pod-");
  writeFileSync(`${folder}/note`, "of the host\n");
  const showNote = (pod: string): Promise<string> => casemate.ok(["pod", "run", "-q", "--rm", "-v", `${folder}:/v`, pod, "busybox", "cat", "/v/note"]);
  const containersOf = async (pod: string): Promise<string[] | undefined> => (await podOf(pod))?.Containers.map(({ Name, Status }) => `${Name} ${Status}`);
  try {
    await casemate.ok(["pod", "create", "--share-pid", "one"]);
    await casemate.ok(["pod", "run", "-d", "--name", "web", "one", "busybox", "sh", "-c", "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"]);
    await casemate.ok(["pod", "run", "-d", "--name", "job", "-v", `${folder}:/v`, "one", "busybox", "sh", "-c", "while sleep 0.2; do date > /dev/shm/date; done"]);
    for (const command of [["fork", "web"], ["snapshot", "create", "never", "one"]]) {
      const { code, stderr } = await casemate.run(command);
      assert.deepEqual([code, /shows folders of the host to container "\w{12}" \(\/v\), and they cannot be saved\nhint: remove that container/.test(stderr)], [125, true], stderr);
    }
    await casemate.ok(["rm", "-f", "job"]);
    await casemate.ok(["pod", "run", "-d", "--name", "job", "one", "busybox", "sh", "-c", "while sleep 0.2; do date > /dev/shm/date; done"]);
    await casemate.ok(["fork", "one", "--count", "2", "--name", "copy"]);
    assert.deepEqual([await containersOf("copy-1"), await containersOf("copy-2")], [["copy-1-web running", "copy-1-job running"], ["copy-2-web running", "copy-2-job running"]]);
    assert.equal(await casemate.ok(["exec", "copy-2-job", "sh", "-c", "hostname; wget -qO- http://localhost; ps | grep -c '[h]ttpd -f'"]), "copy-2\nhello\n1");
    const refused = await casemate.run(["pod", "run", "-q", "--rm", "-v", `${folder}:/v`, "copy-2", "busybox", "true"]);
    assert.match(refused.stderr, /made without shares.*\nhint: /);
    // The parent shows folders again, and so does whoever takes it over when its owner dies.
    assert.equal(await showNote("one"), "of the host");
    await casemate.ok(["snapshot", "create", "both", "web"]);
    const [{ Sandbox: { ownerPid } }] = JSON.parse(await casemate.ok(["inspect", "web"])) as [{ readonly Sandbox: { readonly ownerPid: number } }]; // as inspect prints it
    process.kill(ownerPid, "SIGKILL");
    assert.equal(await showNote("one"), "of the host");
    await casemate.ok(["pod", "rm", "-f", "one", "copy-1", "copy-2"]);
    await casemate.ok(["run", "-q", "-d", "--from-snapshot", "both", "--name", "two"]);
    // Of a copy the name is not added to another's.
    await casemate.ok(["fork", "two", "--name", "three"]);
    assert.deepEqual(await containersOf("three"), ["three-web running", "three-job running"]);
    await casemate.ok(["pod", "stop", "two"]);
    await casemate.ok(["start", "two-web"]);
    assert.equal(await showNote("two"), "of the host");
    await casemate.ok(["pod", "rm", "-f", "two", "three"]);
    await casemate.ok(["snapshot", "rm", "both"]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
