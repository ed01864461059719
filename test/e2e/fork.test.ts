// Copies of a living sandbox, end to end: fork, snapshot, and going on from one.
// - both count on from the same number; a snapshot goes on when its container is gone
// - the parent loses no byte: a hash loop over its memory, a TCP connection, attached input
// - a copy has an identity, disks, ports and execs of its own
// - forks of forks, of restored and of adopted sandboxes; several at once; a chain
// - what cannot be saved is refused, and names who keeps it from being saved; so is a snapshot of another CPU
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { describe, test } from "node:test";
import { connectOwner } from "../../src/host/control/owner-client.ts";
import { ContainerStore } from "../../src/host/store/container-store.ts";
import { snapshotPaths } from "../../src/host/store/paths.ts";
import { eventually, orAbandon } from "../../src/shared/base/deadline.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const within = { timeoutMs: 120_000 };
/** Forks of forks, one after the other: each is a VM for some 3 s. */
const chainLength = 20;
const count = "i=0; while sleep 0.5; do i=$((i+1)); echo $i; done";

interface Inspected {
  readonly Id: string;
  readonly State: { readonly Status: string };
  readonly NetworkSettings: { readonly Ports: Readonly<Record<string, readonly { readonly HostPort: string }[]>> };
  readonly Sandbox: { readonly id: string; readonly ownerPid: number };
}

describe("copies of a living sandbox", { skip }, () => {
  const casemate = useCasemate();
  const inspect = async (name: string): Promise<Inspected> => {
    const [found] = JSON.parse(await casemate.ok(["inspect", name])) as Inspected[];
    assert.ok(found);
    return found;
  };
  const port = async (name: string): Promise<number> => Number((await inspect(name)).NetworkSettings.Ports["8080/tcp"]?.[0]?.HostPort);
  const shell = (name: string, script: string): Promise<string> => casemate.ok(["exec", name, "sh", "-c", script]);
  const counted = async (name: string): Promise<number[]> => (await casemate.ok(["logs", name])).split("\n").filter((line) => line !== "").map(Number);
  /** What a container has counted once it has come that far; one after the other, or the test fails. */
  const countsTo = async (name: string, wanted: (numbers: readonly number[]) => boolean): Promise<number[]> => {
    const numbers = await eventually(`the numbers of ${name}`, async () => { const so = await counted(name); return wanted(so) ? so : undefined; }, within);
    const [first = 0] = numbers;
    assert.deepEqual(numbers, numbers.map((_, index) => first + index), `${name} counts on without a gap`);
    return numbers;
  };

  test("a fork and its parent count on from the same number", async () => {
    await casemate.ok(["run", "-q", "-d", "--name", "a", "busybox", "sh", "-c", count]);
    const before = (await countsTo("a", ({ length }) => length >= 3)).at(-1) ?? 0;
    const id = await casemate.ok(["fork", "a", "--name", "b"]);
    assert.equal(id, (await inspect("b")).Id);
    const copied = await countsTo("b", ({ length }) => length >= 5);
    const at = copied[0] ?? 0;
    assert.ok(at >= before, `the copy went on with ${at}, the parent was at ${before} when it was asked for`);
    assert.ok((await countsTo("a", (numbers) => (numbers.at(-1) ?? 0) > at + 5)).includes(at));
  });

  test("a copy of a copy, whose parent ran on meanwhile", async () => {
    const before = (await counted("b")).at(-1) ?? 0;
    await casemate.ok(["fork", "b", "--name", "b2"]);
    assert.ok(((await countsTo("b2", ({ length }) => length >= 3))[0] ?? 0) >= before);
    await casemate.ok(["fork", "a", "--name", "later"]);
    assert.ok(((await countsTo("later", ({ length }) => length >= 3))[0] ?? 0) > before, "of what the parent has become");
    await casemate.ok(["rm", "-f", "b2", "later"]);
  });

  test("--count saves once: three copies begin at one number, with names and identities of their own", async () => {
    const ids = (await casemate.ok(["fork", "a", "--count", "3", "--name", "many"])).split("\n");
    const names = ["many-1", "many-2", "many-3"];
    assert.deepEqual(ids, await Promise.all(names.map(async (name) => (await inspect(name)).Id)));
    const first = await Promise.all(names.map(async (name) => (await countsTo(name, ({ length }) => length > 0))[0]));
    assert.equal(new Set(first).size, 1, String(first));
    const facts = await Promise.all(["a", ...names].map((name) => shell(name, "hostname; cat /sys/class/net/eth0/address /proc/sys/kernel/random/uuid; ip -4 -o addr show eth0 | awk '{print $4}'; grep $(hostname) /etc/hosts")));
    for (const [index, what] of ["host name", "MAC address", "uuid", "IP address", "line of /etc/hosts"].entries()) {
      const values = facts.map((text) => text.split("\n")[index]);
      assert.equal(new Set(values).size, 4, `${what}: ${values.join(", ")}`);
    }
    assert.deepEqual(facts.map((text) => text.split("\n")[0]), await Promise.all(["a", ...names].map(async (name) => (await inspect(name)).Id.slice(0, 12))));
    assert.ok(Number(await shell("many-1", "cat /dev/casemate/generation")) > Number(await shell("a", "cat /dev/casemate/generation")), "the copy is told of its new identity");
    await shell("many-1", "echo one > /one; sync");
    assert.equal(await shell("many-2", "ls /one 2>&1 || true"), "ls: /one: No such file or directory");
    await casemate.ok(["rm", "-f", ...names]);
  });

  test("a snapshot goes on when its container is gone, as often as wanted, and can be forked", async () => {
    assert.equal(await casemate.ok(["snapshot", "create", "s", "a"]), "s");
    const saved = (await counted("a")).at(-1) ?? 0;
    await casemate.ok(["rm", "-f", "a", "b"]);
    await casemate.ok(["run", "-q", "-d", "--from-snapshot", "s", "--name", "c"]);
    const [first = 0] = await countsTo("c", ({ length }) => length >= 3);
    assert.ok(first > saved - 20 && first <= saved + 1, `it went on with ${first}, saved at ${saved} or a little before`);
    await casemate.ok(["fork", "c", "--name", "d"]);
    await countsTo("d", ({ length }) => length >= 3);
    assert.deepEqual((await casemate.ok(["snapshot", "ls", "--format", "json"])).split("\n").map((line) => { const { Name: name, Containers: containers } = JSON.parse(line) as Record<string, string>; return { name, containers }; }), [{ name: "s", containers: "a" }]);
    const { manifest } = snapshotPaths(casemate.folders, "s");
    const asSaved = readFileSync(manifest, "utf8");
    writeFileSync(manifest, asSaved.replace(/"machineKey": "./, '"machineKey": "?'));
    const foreign = await casemate.run(["run", "-q", "-d", "--from-snapshot", "s"]);
    writeFileSync(manifest, asSaved);
    assert.equal(foreign.code, 125);
    assert.match(foreign.stderr, /start from snapshot "s": it was made with another QEMU, CPU or kernel of this host\nhint: make the snapshot anew/);
    const kept = await casemate.run(["rmi", "busybox"]);
    assert.equal(kept.code, 1);
    assert.match(kept.stderr, /image "busybox" is used by container .*, snapshot s(?:, template [0-9a-f]+)*\n/);
    const taken = await casemate.run(["snapshot", "create", "s", "c"]);
    assert.equal(taken.code, 125);
    assert.match(taken.stderr, /snapshot "s" exists already\nhint: /);
    await casemate.ok(["rm", "-f", "d"]);
  });

  test("a sandbox whose owner was killed and that was taken over is forked as any other", async () => {
    const { Sandbox: { ownerPid } } = await inspect("c");
    process.kill(ownerPid, "SIGKILL");
    const at = (await counted("c")).at(-1) ?? 0;
    await casemate.ok(["fork", "c", "--name", "d"]);
    assert.ok(((await countsTo("d", ({ length }) => length >= 3))[0] ?? 0) >= at);
    assert.notEqual((await inspect("c")).Sandbox.ownerPid, ownerPid);
    const { Sandbox: { ownerPid: copysOwner } } = await inspect("d");
    process.kill(copysOwner, "SIGKILL");
    await countsTo("d", ({ length }) => length >= 10);
    await casemate.ok(["rm", "-f", "d"]);
  });

  test(`a chain of ${chainLength} forks counts on to its end`, async () => {
    let [at = 0] = await counted("c");
    for (let index = 1; index <= chainLength; index++) {
      await shell("c", `echo ${index} >> /links`);
      await casemate.ok(["fork", "c", "--name", "next"]);
      await casemate.ok(["rm", "-f", "c"]);
      await casemate.ok(["rename", "next", "c"]);
      const [first = 0] = await countsTo("c", ({ length }) => length > 0);
      assert.ok(first > at);
      at = first;
    }
    assert.equal(await shell("c", "cat /links"), Array.from({ length: chainLength }, (_, index) => index + 1).join("\n"));
    await casemate.ok(["rm", "-f", "c"]);
    await casemate.ok(["snapshot", "rm", "s"]);
  });

  test("the parent goes on without losing a byte, and the copy has what it had", async () => {
    const script = "yes 'sixty-four megabytes' | head -c 64m > /dev/shm/f; (while sleep 0.05; do sha256sum < /dev/shm/f; done > /sums) & (nc -l -p 8080 -e cat; echo tcp ended >&2) & exec cat";
    const published = await freePort();
    const parent = casemate.start(["run", "-q", "-i", "--shm-size", "80m", "--name", "p", "-p", `${published}:8080`, "busybox", "sh", "-c", script]);
    const echoed: Buffer[] = [];
    parent.stdout.on("data", (chunk: Buffer) => echoed.push(chunk));
    const ended = new Promise<number | null>((resolve) => { parent.once("close", resolve); });
    const sums = async (name: string, least: number): Promise<string[]> => eventually(`hashes of ${name}`, async () => { const lines = (await shell(name, "cat /sums 2>/dev/null || true")).split("\n"); return lines.length > least ? lines.slice(0, -1) : undefined; }, within);
    await eventually("the container", async () => ((await casemate.run(["inspect", "p"])).stdout.includes("\"running\"") ? true : undefined), within);
    await sums("p", 2);
    const socket = connect(await port("p"), "127.0.0.1");
    const received: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => received.push(chunk));
    await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    await casemate.ok(["exec", "-d", "p", "sh", "-c", "while [ ! -e /end ]; do sleep 0.1; done; exit 7"]);
    // Both say numbers all the time, from before the fork to after it.
    const sent: string[] = [];
    const talking = setInterval(() => {
      const line = `${String(sent.length).padStart(200, ".")}\n`;
      sent.push(line);
      parent.stdin.write(line);
      socket.write(line);
    }, 10);
    await eventually("an echo", () => (received.length > 3 && echoed.length > 3 ? true : undefined), within);
    await casemate.ok(["fork", "p", "--name", "q"]);
    const heard = received.length;
    await eventually("an echo after the fork", () => (received.length > heard + 20 ? true : undefined), within);
    clearInterval(talking);
    const all = sent.join("");
    await eventually("the last echo", () => (Buffer.concat(received).length >= all.length && Buffer.concat(echoed).length >= all.length ? true : undefined), within);
    assert.equal(Buffer.concat(received).toString(), all, "over TCP");
    assert.equal(Buffer.concat(echoed).toString(), all, "over the attached streams");
    socket.destroy();

    const before = (await sums("q", 1)).length;
    const hashes = [...await sums("p", 3), ...await sums("q", before + 2)];
    assert.equal(new Set(hashes).size, 1, "every round of the loop, here and there, saw the same 64 MiB");
    assert.equal(await port("p"), published);
    assert.ok(await port("q") > 0 && await port("q") !== published, "the copy publishes on a free port");

    const store = new ContainerStore(casemate.folders);
    const copy = store.find("q");
    const owner = await connectOwner(casemate.folders, copy.sandboxId);
    try {
      const { containers: [inCopy] } = await owner.owner.inspect({});
      assert.ok(inCopy);
      // Beside those by which this test looks into it.
      const waiting = inCopy.execIds.map(async (execId) => (await owner.task.wait({ id: copy.containerId, execId })).exitStatus);
      await shell("q", "touch /end");
      const ends = await orAbandon(Promise.allSettled(waiting), "the execs' end", within);
      assert.equal(ends.filter((end) => end.status === "fulfilled" && end.value === 7).length, 1, "the exec that ran is listed, and can be waited for");
    } finally {
      owner.close();
    }
    assert.equal((await casemate.run(["exec", "p", "test", "-e", "/end"])).code, 1, "the parent's disk is its own");
    await casemate.ok(["rm", "-f", "q"]);

    // The same port again, once the one who has it is gone.
    await casemate.ok(["snapshot", "create", "ports", "p"]);
    parent.stdin.end();
    assert.equal(await ended, 0);
    await casemate.ok(["rm", "-f", "p"]);
    await casemate.ok(["run", "-q", "-d", "--from-snapshot", "ports", "--name", "r"]);
    assert.equal(await port("r"), published);
    await casemate.ok(["rm", "-f", "r"]);
    await casemate.ok(["snapshot", "rm", "ports"]);
  });

  test("memory that was plugged comes along, by fork and by snapshot", async () => {
    await casemate.ok(["run", "-q", "-d", "--network", "none", "-m", "1200m", "--shm-size", "100m", "--name", "big", "busybox", "sh", "-c", count]);
    const look = "sha256sum /dev/shm/data; grep MemTotal /proc/meminfo";
    const seen = await shell("big", `head -c 80m /dev/urandom > /dev/shm/data; ${look}`);
    const memory = (text: string): number => Number(/MemTotal: +(\d+)/.exec(text)?.[1]);
    assert.ok(memory(seen) > 1_200 * 1024, seen);
    await casemate.ok(["fork", "big", "--name", "big2"]);
    await casemate.ok(["snapshot", "create", "big", "big2"]);
    await casemate.ok(["run", "-q", "-d", "--from-snapshot", "big", "--name", "big3"]);
    for (const copy of ["big2", "big3"]) assert.equal(await shell(copy, look), seen, copy);
    await countsTo("big3", ({ length }) => length >= 3);
    await casemate.ok(["rm", "-f", "big", "big2", "big3"]);
    await casemate.ok(["snapshot", "rm", "big"]);
  });

  test("a sandbox with a volume is refused, and says which container has it; it goes on", async () => {
    const folder = mkdtempSync("/tmp/cm-volume-");
    try {
      const id = await casemate.ok(["run", "-q", "-d", "--name", "v", "-v", `${folder}:/v`, "busybox", "sh", "-c", "while sleep 0.2; do date >> /v/dates; done"]);
      for (const args of [["fork", "v"], ["snapshot", "create", "never", "v"]]) {
        const { code, stderr } = await casemate.run(args);
        assert.equal(code, 125);
        assert.match(stderr, new RegExp(`shows folders of the host to container "${id.slice(0, 12)}" \\(/v\\), and they cannot be saved`));
      }
      assert.doesNotMatch(await casemate.ok(["snapshot", "ls"]), /never/);
      const written = (): number => (existsSync(`${folder}/dates`) ? readFileSync(`${folder}/dates`).length : 0);
      const length = written();
      await eventually("the next date", () => (written() > length ? true : undefined), within);
      await casemate.ok(["rm", "-f", "v"]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => { server.listen(0, "127.0.0.1", resolve); });
  const { port } = server.address() as AddressInfo; // of a TCP server
  await new Promise((resolve) => { server.close(resolve); });
  return port;
}
