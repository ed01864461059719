// What a copy of a living sandbox does not share with it, and how a program in it gets to know.
// - two sandboxes of one template and two forks: what fresh processes draw (Node, OpenSSL, Python, a TLS client hello)
// - a boot id that was read before the fork is another one in the copy
// - the generation is told to who watches it; --clone-cmd runs in every copy, and one in which it fails goes again
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { useCasemate } from "../support/cli.ts";
import { compress, writeOciLayout, type FixtureLayer } from "../support/image-fixture.ts";
import { tarBytes } from "../support/memory-archive.ts";
import { requires } from "../support/requires.ts";
import { countShared, type Facts } from "../support/shared-facts.ts";

const skip = requires("root");
const programs = ["/usr/bin/openssl", "/usr/bin/python3"];
const applets = ["sh", "cat", "echo", "head", "hexdump", "nc", "sleep", "touch", "wc"];

/** In a container: a name and a value a line. The record of a client hello has its random at byte 11, then the session id. */
const draws = `
echo "OpenSSL $(openssl rand -hex 16)"
python3 -S -c 'import os, random; print("os.urandom", os.urandom(16).hex()); print("random.random", random.random()); print("str-hash", hash("x"))'
echo -n > /hello
nc -l -p 4433 -e sh -c 'head -c 76 > /hello' &
until [ $(wc -c < /hello) -ge 76 ]; do openssl s_client -connect 127.0.0.1:4433 < /dev/null > /dev/null 2>&1; done
echo "client-hello $(hexdump -v -s 11 -n 65 -e '65/1 "%02x"' /hello)"
`;
/** In the guest itself, which has a Node. */
const nodeDraws = 'const { randomUUID, randomBytes } = require("node:crypto"); console.log(`randomUUID ${randomUUID()}\\nrandomBytes ${randomBytes(16).toString("hex")}\\nMath.random ${Math.random()}`)';
const onClone = "cat /dev/casemate/generation > /told; if [ -e /refuse ]; then echo not today; exit 3; fi";
const parentProgram = "cat /proc/sys/kernel/random/boot_id > /before; exec sleep 100000";
/** The file that containers see as /dev/casemate/generation, watched by what the guest has for it. */
const watcher = 'const { appendFileSync, readFileSync, watch } = require("node:fs"); const file = "/run/casemate/sandbox/generation"; watch(file, () => appendFileSync("/run/heard", readFileSync(file))); appendFileSync("/run/listening", "");';

describe("what a copy does not share", { skip }, () => {
  const casemate = useCasemate();
  const shell = (name: string, script: string): Promise<string> => casemate.ok(["exec", name, "sh", "-c", script]);
  const draw = async (name: string): Promise<Facts> => {
    const lines = `${await shell(name, draws)}\n${await casemate.ok(["exec", "--vm", name, "node", "-e", nodeDraws])}`.split("\n");
    return Object.fromEntries(lines.map((line) => line.split(" ", 2) as [string, string])); // as echoed above
  };

  before(async () => {
    const folder = mkdtempSync("/tmp/cm-drawing-");
    const layout = join(folder, "drawing");
    try {
      writeOciLayout(layout, [busyboxLayer(), await hostLayer()]);
      await casemate.ok(["pull", `oci:${layout}:image`]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("fresh processes in two clones and two forks draw nothing twice", async () => {
    for (const name of ["one", "two"]) await casemate.ok(["run", "-q", "-d", "--name", name, "--network", "none", "--clone-cmd", onClone, "localhost/drawing:image", "sh", "-c", parentProgram]);
    await casemate.ok(["exec", "--vm", "-d", "one", "node", "-e", watcher]);
    await eventually("the watcher", async () => (await casemate.run(["exec", "--vm", "one", "test", "-e", "/run/listening"])).code === 0 || undefined, { timeoutMs: 30_000 });
    await casemate.ok(["fork", "one", "--count", "2", "--name", "fork"]);
    const names = ["one", "two", "fork-1", "fork-2"];
    const facts: Facts[] = [];
    for (const name of names) facts.push(await draw(name));
    const { shared, text } = countShared(facts);
    console.log(text);
    assert.deepEqual(shared, []);

    const bootIds = await Promise.all(names.map((name) => shell(name, "cat /proc/sys/kernel/random/boot_id")));
    assert.equal(new Set(bootIds).size, names.length, bootIds.join(", "));
    assert.deepEqual([await shell("one", "cat /before"), await shell("fork-1", "cat /before")], [bootIds[0], bootIds[0]], "it had been read before the fork");
    assert.equal((await casemate.run(["exec", "one", "sh", "-c", "echo x > /proc/sys/kernel/random/boot_id"])).code, 1, "nobody in a container changes it");
    assert.equal(await casemate.ok(["exec", "--vm", "fork-1", "cat", "/proc/sys/kernel/random/boot_id"]), bootIds[2]);
  });

  test("a copy's generation is another one, heard by who watches it, and its command has run", async () => {
    const generation = (name: string): Promise<string> => shell(name, "cat /dev/casemate/generation");
    const [parent, copy] = [await generation("one"), await generation("fork-1")];
    assert.ok(Number(copy) > Number(parent));
    assert.equal(await shell("fork-1", "cat /told"), copy);
    assert.equal(await eventually("the watcher's word", async () => (await casemate.ok(["exec", "--vm", "fork-1", "sh", "-c", "tail -n 1 /run/heard 2>/dev/null || true"])) || undefined, { timeoutMs: 10_000 }), copy);
    assert.equal(await shell("one", "cat /told 2>/dev/null || true") + await casemate.ok(["exec", "--vm", "one", "sh", "-c", "cat /run/heard 2>/dev/null || true"]), "", "the parent is no copy");

    await shell("one", "touch /refuse");
    const { code, stderr } = await casemate.run(["fork", "one", "--name", "refused"]);
    assert.equal(code, 125);
    assert.match(stderr, /in the copy: exit code 3: not today\nhint: /);
    assert.equal((await casemate.run(["inspect", "refused"])).code, 1, "nothing stays of it");
    assert.equal(await generation("one"), parent);
  });
});

/** The host's openssl and python3 with all they load, at the paths they have here. */
async function hostLayer(): Promise<FixtureLayer> {
  const { stdout: listed } = await runProcess("ldd", programs);
  const libraries = [...listed.toString().matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].map(([, path]) => path ?? "");
  const { stdout: packaged } = await runProcess("dpkg", ["-L", "libpython3.11-minimal"]);
  const modules = packaged.toString().split("\n").filter((path) => path.endsWith(".py"));
  const { stdout } = await runProcess("tar", ["--create", "--dereference", "--absolute-names", "--transform=s,^/,,", "--file=-", ...programs, ...new Set(libraries), ...modules], { timeoutMs: 60_000, maxOutputBytes: 64 * 1024 * 1024 });
  return compress.none(stdout);
}

function busyboxLayer(): FixtureLayer {
  return compress.none(tarBytes([
    { path: "bin/busybox", type: "file", mode: 0o755, content: readFileSync("/bin/busybox") },
    ...applets.map((name) => ({ path: join("bin", name), type: "symlink", linkPath: "busybox" }) as const),
  ]));
}
