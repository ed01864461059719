// Several containers in one sandbox, through the command.
// - they share network, host name, IPC and /dev/shm, and have their own files and limits
// - containers come and go while the others run; the sandbox ends with the last one, or with the first
// - with --share-pid they see each other's processes; a snapshot or a fork of one is refused
import assert from "node:assert/strict";
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
  for (const command of [["fork", "web"], ["snapshot", "create", "shop-1", "web"]]) {
    const { code, stderr } = await casemate.run(command);
    assert.deepEqual([code, /pods cannot be saved yet/.test(stderr)], [125, true], stderr);
  }
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
