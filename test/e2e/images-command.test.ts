// pull, images, save, load, rmi and build as a user calls them, against a real registry, podman's storage and its
// service in docker's place. No VM.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { useCasemate } from "../support/cli.ts";
import { compress, pushLayout, randomLayer, writeOciLayout } from "../support/image-fixture.ts";
import { tarBytes } from "../support/memory-archive.ts";
import { Podman } from "../support/podman.ts";
import { Pty } from "../support/pty.ts";
import { RegistryFront } from "../support/registry-front.ts";
import { Registry } from "../support/registry.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root", "podman", "docker-registry");
const timeoutMs = 60_000;
let folder: string;
let registry: Registry;
let podman: Podman;
let tagged: string;
let archive: string;

// Registered before the state folders' own end, which looks at the whole host.
after(async () => {
  if (skip !== false) return;
  await podman.close();
  await registry[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
}, { timeout: timeoutMs });
const casemate = useCasemate();

before(async () => {
  if (skip !== false) return;
  folder = mkdtempSync("/tmp/cm-pull-");
  registry = await Registry.start();
  podman = Podman.in(folder);
  tagged = `${registry.address}/test/small:v1`;
  archive = join(folder, "saved.tar");
  const layer = compress.gzip(tarBytes([{ path: "hello", type: "file", content: "hello" }]));
  writeOciLayout(join(folder, "layout"), [layer], { Cmd: ["/hello"], Labels: { made: "for a test" } });
  await pushLayout(join(folder, "layout"), tagged);
  await podman.ok("pull", "--quiet", "--tls-verify=false", tagged);
  await podman.ok("save", "--quiet", "--output", archive, tagged);
}, { timeout: timeoutMs });

async function imageNames(): Promise<string[]> {
  const lines = await casemate.ok(["images", "--format", "json"]);
  return lines.split("\n").filter((line) => line !== "").map((line) => {
    const { Repository, Tag } = JSON.parse(line) as { readonly Repository: string; readonly Tag: string }; // one object a line, as documented
    return `${Repository}:${Tag}`;
  });
}

test("pull takes from every transport, prints the name, and rmi takes it away again", { skip, timeout: timeoutMs }, async () => {
  await using docker = await dockerService();
  const sources: readonly (readonly [reference: string, name: string, env?: NodeJS.ProcessEnv])[] = [
    [tagged, tagged],
    [`docker://${tagged}`, tagged],
    [`oci:${join(folder, "layout")}:image`, "localhost/layout:image"],
    [`docker-archive:${archive}`, "localhost/saved:latest"],
    [podman.reference(tagged), tagged],
    [`docker-daemon:${tagged}`, tagged, { DOCKER_HOST: docker.address }],
  ];
  for (const [reference, name, env] of sources) {
    const { code, stdout, stderr } = await casemate.run(["pull", reference], { timeoutMs, ...(env && { env }) });
    assert.deepEqual([code, stdout], [0, `${name}\n`], `${reference}: ${stderr}`);
    assert.deepEqual(await imageNames(), [name], reference);
    assert.match(await casemate.ok(["rmi", name]), new RegExp(`^Untagged: ${name}\nDeleted: sha256:[0-9a-f]{64}$`), reference);
    assert.deepEqual(await imageNames(), [], reference);
  }
});

test("without docker, docker-daemon: says so", { skip, timeout: timeoutMs }, async () => {
  const { code, stderr } = await casemate.run(["pull", `docker-daemon:${tagged}`], { timeoutMs, env: { DOCKER_HOST: `unix://${join(folder, "nobody.sock")}` } });
  assert.equal(code, 125);
  assert.match(stderr, /hint: start docker, or say where it listens with DOCKER_HOST/);
});

/** Podman speaks docker's protocol; skopeo asks whoever DOCKER_HOST names. */
async function dockerService(): Promise<{ readonly address: string } & AsyncDisposable> {
  const socket = join(folder, "docker.sock");
  const { file, args, env } = podman.commandLine("system", "service", "--time", "0", `unix://${socket}`);
  const service = spawn(file, args, { env, stdio: "ignore" });
  const ended = new Promise((resolve) => service.once("exit", resolve));
  const stop = async (): Promise<void> => {
    service.kill("SIGTERM");
    await ended;
    rmSync(socket, { force: true });
  };
  try {
    await eventually("podman's service", async () => (await runProcess("curl", ["--silent", "--unix-socket", socket, "http://localhost/_ping"], { okExitCodes: [0, 7, 52, 56] })).exitCode === 0 ? true : undefined, { timeoutMs, intervalMs: 100 });
  } catch (error) {
    await stop();
    throw error;
  }
  return { address: `unix://${socket}`, [Symbol.asyncDispose]: stop };
}

test("pull -q prints the id alone, which images -q lists and rmi takes", { skip, timeout: timeoutMs }, async () => {
  const id = await casemate.ok(["pull", "-q", tagged]);
  assert.match(id, /^sha256:[0-9a-f]{64}$/);
  assert.equal(await casemate.ok(["images", "-q", "--no-trunc"]), id);
  assert.equal(await casemate.ok(["images", "-q"]), id.slice("sha256:".length, "sha256:".length + 12));
  const [inspected] = JSON.parse(await podman.ok("image", "inspect", tagged)) as readonly { readonly Id: string }[]; // podman's documented output
  assert.equal(id, `sha256:${inspected?.Id ?? ""}`);
  assert.match(await casemate.ok(["rmi", id.slice("sha256:".length, "sha256:".length + 8)]), /^Untagged: /);
  assert.equal(await casemate.ok(["images", "-q"]), "");
});

test("pull shows bars with sizes and rates on a terminal, lines without one, and with -q nothing", { skip, timeout: timeoutMs }, async () => {
  const layout = join(folder, "two-layers");
  writeOciLayout(layout, [randomLayer("large", 4_000_000), randomLayer("small", 10_000)]);
  await pushLayout(layout, `${registry.address}/test/two:v1`);
  await using front = await RegistryFront.start(registry.address, "stall");
  const reference = `${front.address}/test/two:v1`;
  const bar = /\n {2}[0-9a-f]{12} \[(?:\x1b\[32m)?=+(?:\x1b\[39m)? +\] [\d.]+MB \/ [\d.]+MB {2}[\d.]+[kM]?B\/s$/;
  for (const [env, coloured] of [[{}, true], [{ NO_COLOR: "1" }, false]] as const) {
    front.behaviour = "stall";
    await using pty = Pty.run(casemate.commandLine(["pull", reference]), { columns: 100, env: { NO_COLOR: undefined, ...env } });
    await pty.waitFor(bar, { timeoutMs });
    assert.match(pty.output, /pulling \S+: [\d.]+MB, [\d.]+[kM]?B\/s, [01] of 2 blobs\r\n/);
    assert.equal(pty.output.includes("\x1b[32m"), coloured);
    front.goOn();
    assert.equal(await pty.exit({ timeoutMs }), 0);
    assert.ok(pty.output.endsWith(`\x1b[J${reference}\r\n`), "nothing stays but the name");
    await casemate.ok(["rmi", reference]);
  }
  const { code, stdout, stderr } = await casemate.run(["pull", reference], { timeoutMs });
  assert.deepEqual([code, stdout], [0, `${reference}\n`], stderr);
  assert.match(stderr, /^casemate: pulling \S+ \.\.\.\n(casemate: blob [0-9a-f]{12}: copied(, [\d.]+[kM]?B)?\n){2}casemate: preparing the image \.\.\.\n$/);
  assert.match((await casemate.run(["pull", reference], { timeoutMs })).stderr, /(casemate: blob [0-9a-f]{12}: here already\n){2}/);
  assert.equal((await casemate.run(["pull", "-q", reference], { timeoutMs })).stderr, "");
  await casemate.ok(["rmi", reference]);
});

test("a pull whose connection is dropped says so, makes no image, and goes through the next time", { skip, timeout: timeoutMs }, async () => {
  const layout = join(folder, "dropped");
  writeOciLayout(layout, [randomLayer("dropped", 400_000), randomLayer("whole", 10_000)]);
  await pushLayout(layout, `${registry.address}/test/dropped:v1`);
  await using front = await RegistryFront.start(registry.address, "drop");
  const reference = `${front.address}/test/dropped:v1`;
  const { code, stdout, stderr } = await casemate.run(["pull", reference], { timeoutMs });
  assert.deepEqual([code, stdout], [125, ""], stderr);
  assert.match(stderr, /^casemate: pull image "\S+": .*(unexpected EOF|connection reset).*\nhint: the registry's connection ended in the middle; try again\n$/m);
  assert.deepEqual(await imageNames(), []);
  front.behaviour = "pass";
  assert.equal(await casemate.ok(["pull", reference], { timeoutMs }), reference);
  await casemate.ok(["rmi", reference]);
});

test("images prints docker's columns", { skip, timeout: timeoutMs }, async () => {
  await casemate.ok(["pull", tagged]);
  const [head, row, ...more] = (await casemate.ok(["images", "--digests"])).split("\n");
  assert.match(head ?? "", /^REPOSITORY +TAG +DIGEST +IMAGE ID +CREATED +SIZE$/);
  assert.match(row ?? "", new RegExp(`^${registry.address}/test/small +v1 +sha256:[0-9a-f]{64} +[0-9a-f]{12} +\\S.* ago +\\S+B$`));
  assert.deepEqual(more, []);
  for (const [args, lines] of [[["--filter", "reference=*/test/small"], 1], [["--filter", "reference=*/small"], 0], [["--filter", "label=made"], 1], [["--filter", "label=made=x"], 0], [["--filter", "dangling=false"], 1], [[tagged], 1], [[`${tagged}x`], 0]] as const) {
    assert.equal((await casemate.ok(["images", "-q", ...args])).split("\n").filter((line) => line !== "").length, lines, args.join(" "));
  }
  assert.match(await casemate.ok(["image", "prune", "-af", "--filter", "label=made=x"]), /^Total reclaimed space: 0B$/);
});

test("rmi keeps an image that a container needs, unless it is forced", { skip, timeout: timeoutMs }, async () => {
  await casemate.ok(["create", "--name", "user", tagged]);
  const refused = await casemate.run(["rmi", tagged]);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /is used by container user\nhint: remove what uses it first/);
  assert.deepEqual(await imageNames(), [tagged]);
  assert.match(await casemate.ok(["rmi", "-f", tagged]), /Deleted: /);
  await casemate.ok(["rm", "user"]);
});

test("rmi of several images does what it can, and says what it could not", { skip, timeout: timeoutMs }, async () => {
  await casemate.ok(["pull", tagged]);
  const { code, stdout, stderr } = await casemate.run(["rmi", "no-such-image", tagged]);
  assert.equal(code, 1);
  assert.match(stderr, /no such image: no-such-image\nhint: `casemate images` lists the images/);
  assert.match(stdout, /^Untagged: .*\nDeleted: /);
});

test("save and load: several images in one archive, of ours, of podman's, and one with two names", { skip, timeout: timeoutMs }, async () => {
  writeOciLayout(join(folder, "second"), [compress.gzip(tarBytes([{ path: "other", type: "file", content: "other" }]))]);
  await casemate.ok(["pull", tagged]);
  await casemate.ok(["pull", `oci:${join(folder, "second")}:image`]);
  await casemate.ok(["tag", tagged, "again:1"]);
  const names = [tagged, "localhost/second:image", "again:1"];
  const both = join(folder, "both.tar");
  writeFileSync(both, "written over");
  await casemate.ok(["save", "-o", both, ...names]);
  const { code, stderr } = await casemate.run(["save", "-o", both, tagged, "nobody"]);
  assert.deepEqual([code, /no such image: nobody/.test(stderr)], [125, true]);
  const layers = async (): Promise<string> => casemate.ok(["image", "inspect", "--format", "{{json .RootFS.Layers}} {{json .Config.Cmd}}", ...names]);
  const before = await layers();
  const loadedBy = [await podman.ok("load", "--quiet", "--input", both), join(folder, "podman.tar")] as const;
  for (const name of ["localhost/second:image", tagged]) assert.ok(loadedBy[0].includes(name), loadedBy[0]);
  await podman.ok("save", "--quiet", "--multi-image-archive", "--output", loadedBy[1], tagged, "localhost/second:image", "docker.io/library/again:1");
  for (const archive of [both, loadedBy[1]]) {
    await casemate.ok(["rmi", ...names]);
    assert.deepEqual((await casemate.ok(["load", "-q", "-i", archive])).split("\n").sort(), names.map((name) => `Loaded image: ${name}`).sort(), archive);
    assert.equal(await layers(), before, archive);
    assert.equal(new Set((await casemate.ok(["images", "-q"])).split("\n")).size, 2, archive);
  }
  assert.deepEqual(readdirSync(folder).filter((name) => name.endsWith(".part")), []);
  await casemate.ok(["rmi", ...names]);
});

test("build says how to build instead", { skip, timeout: timeoutMs }, async () => {
  for (const args of [["build", "."], ["build", "-t", "mine", "--file", "Containerfile", "."]]) {
    const { code, stderr } = await casemate.run(args);
    assert.equal(code, 125);
    assert.match(stderr, /casemate does not build images\nhint: build with `podman build -t NAME \.` and fetch the result with `casemate pull containers-storage:localhost\/NAME`/);
  }
});

test("what build's hint says works", { skip, timeout: timeoutMs }, async () => {
  await runProcess("sh", ["-c", `printf 'FROM ${tagged}\\nLABEL built=yes\\n' > ${join(folder, "Containerfile")}`]);
  await podman.ok("build", "--quiet", "--tls-verify=false", "--tag", "mine", "--file", join(folder, "Containerfile"), folder);
  assert.equal(await casemate.ok(["pull", podman.reference("localhost/mine")]), "localhost/mine:latest");
  await casemate.ok(["rmi", "localhost/mine"]);
});
