// Container images from a real registry, without a VM.
// - the root file system is what podman shows of the same image, entry by entry, and its config too
// - the same bytes again, from every kind of source, and as an ordinary user
// - nothing is fetched twice; two pulls at once agree
// - unknown, forbidden and damaged images, in the registry and in the store, say so and say what to do
// - a pull killed or aborted half way, or a full disk, leaves nothing half-made and a store that works
// - removing an image frees what no other image needs, and no more
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, chownSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ImageStore, type RunnableImage } from "../../src/host/storage/images/image-store.ts";
import { pullImage } from "../../src/host/storage/images/pull.ts";
import type { StateFolders } from "../../src/host/store/paths.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { RuntimeError, describeError, type ErrorCode } from "../../src/shared/base/errors.ts";
import { identifyProcess, isAlive } from "../../src/shared/linux/proc.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { watchHost, type HostWatch } from "../support/host-clean.ts";
import { compress, pushLayout, randomLayer, richConfig, richLayers, sha256, writeOciLayout, type FixtureLayer } from "../support/image-fixture.ts";
import { tarBytes } from "../support/memory-archive.ts";
import { nobody, runAsNobody } from "../support/ordinary-user.ts";
import { Podman } from "../support/podman.ts";
import { RegistryFront } from "../support/registry-front.ts";
import { Registry } from "../support/registry.ts";
import { requires } from "../support/requires.ts";
import { listTree } from "../support/tree-listing.ts";

const skip = requires("root", "podman", "docker-registry");
/** Far above what any step here takes; a hanging pull must not hang the test. */
const timeoutMs = 60_000;
const puller = join(import.meta.dirname, "../support/pull-image.ts");
/** Large enough to be stopped in the middle. */
const bigLayerBytes = 8 * 1024 * 1024;

const folder = mkdtempSync(join(tmpdir(), "cm-images-"));
const podman = Podman.in(folder);
let host: HostWatch;
let registry: Registry;
let richSource: readonly FixtureLayer[];
let rich: string;
let richImage: RunnableImage;
let shared: FixtureLayer;
let richFolders: StateFolders;

before(async () => {
  if (skip !== false) return;
  host = watchHost();
  registry = await Registry.start();
  richSource = await richLayers();
  rich = await push("rich", richSource, richConfig);
  shared = randomLayer("shared", 200_000);
  richFolders = newFolders();
  richImage = await new ImageStore(richFolders).open(await pullImage(richFolders, rich, { timeoutMs }));
}, { timeout: 2 * timeoutMs });

after(async () => {
  if (skip !== false) return;
  await podman.close();
  await registry[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
  await host.assertHostClean();
}, { timeout: timeoutMs });

/** A state folder of its own. */
function newFolders(): StateFolders {
  const data = mkdtempSync(join(folder, "data-"));
  return { data, run: join(data, "run") };
}

async function push(name: string, layers: readonly FixtureLayer[], config: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const layout = join(folder, `layout-${name}`);
  writeOciLayout(layout, layers, config);
  const reference = `${registry.address}/test/${name}:v1`;
  await pushLayout(layout, reference);
  return reference;
}

async function pullAndOpen(folders: StateFolders, reference: string): Promise<RunnableImage> {
  return new ImageStore(folders).open(await pullImage(folders, reference, { timeoutMs }));
}

function hashOf(image: RunnableImage): string {
  return sha256(readFileSync(image.rootfs.path));
}

/** The blobs a store has, by their hexadecimal digests. */
function blobsOf(folders: StateFolders): string[] {
  const blobs = join(folders.data, "images/blobs/sha256");
  return existsSync(blobs) ? readdirSync(blobs).toSorted() : [];
}

/** Nothing half-made: no temporary file, no lock. */
function assertNothingHalfMade(folders: StateFolders): void {
  const left = ["tmp", "locks"].flatMap((name) => (existsSync(join(folders.data, "images", name)) ? readdirSync(join(folders.data, "images", name)) : []));
  assert.deepEqual(left, []);
  const files = readdirSync(folders.data, { recursive: true, encoding: "utf8" });
  assert.deepEqual(files.filter((path) => /\.(tmp|new)|\.tar$/.test(path)), []);
}

function damage(path: string): void {
  const bytes = readFileSync(path);
  const middle = Math.floor(bytes.length / 2);
  bytes[middle] = (bytes[middle] ?? 0) ^ 0xff;
  writeFileSync(path, bytes);
}

async function assertFails(work: Promise<unknown>, code: ErrorCode, reason: string, message: RegExp): Promise<void> {
  await assert.rejects(work, (error) => {
    assert.ok(RuntimeError.is(error, code), describeError(error));
    assert.equal(error.reason, reason);
    assert.match(describeError(error), message);
    assert.ok((error.hint ?? "") !== "", "there is a next step");
    return true;
  });
}

test("the root file system is what podman shows of the image", { skip, timeout: timeoutMs }, async () => {
  await podman.ok("pull", "--quiet", "--tls-verify=false", rich);
  const mountPoint = join(folder, "ours");
  mkdirSync(mountPoint);
  const theirs = await podman.ok("image", "mount", rich);
  await runProcess("mount", ["-t", "squashfs", "-o", "loop,ro", richImage.rootfs.path, mountPoint]);
  try {
    const [ours, expected] = await Promise.all([listTree(mountPoint), listTree(theirs)]);
    // An overlay still counts the names that a higher layer has taken away.
    const counted: Record<string, number> = { "links/survivor": 1, "links/survivor-2": 2, "links/survivor-3": 2 };
    for (const [path, linkCount] of Object.entries(counted)) {
      assert.equal(ours.get(path)?.linkCount, linkCount, path);
      expected.set(path, { ...expected.get(path) ?? assert.fail(path), linkCount });
    }
    // The times 2001 and 2096 are in the layer; podman's ext4 or xfs below may know less, squashfs knows until 2106.
    assert.equal(ours.get("etc/passwd")?.mtimeSeconds, 1_000_000_000);
    assert.equal(ours.get("etc/empty")?.mtimeSeconds, 4_000_000_000);
    assert.equal(ours.get("")?.mtimeSeconds, 1_234_567_890);
    // Podman's overlay has a root folder of its own, whatever the image says.
    assert.deepEqual([ours.get("")?.mode, ours.get("")?.owner], ["700", "0:0"]);
    for (const tree of [ours, expected]) tree.delete("");
    assert.deepEqual([...ours.keys()], [...expected.keys()]);
    for (const [path, entry] of expected) assert.deepEqual(ours.get(path), entry, path);
    // What makes the comparison worth something.
    assert.match(ours.get("bin/capable")?.xattrs ?? "", /security\.capability=0x/);
    assert.match(ours.get("bin/attributes")?.xattrs ?? "", /user\.binary=0x00ff0a3d00/);
    assert.equal(ours.get("srv/app/far")?.owner, "3000000000:2500000");
    assert.equal(ours.get("links/whole-2")?.sameAs, "links/whole");
    assert.ok([...ours.keys()].includes("etc/n-\xff\xfe\xe4"));
    assert.ok(ours.size > 40, `${ours.size} entries`);
  } finally {
    await runProcess("umount", [mountPoint]);
    await podman.ok("image", "umount", rich);
  }
});

test("the config is what podman reads", { skip, timeout: timeoutMs }, async () => {
  await podman.ok("pull", "--quiet", "--tls-verify=false", rich);
  const [inspected] = JSON.parse(await podman.ok("image", "inspect", rich)) as [{ readonly Id: string; readonly Config: Record<string, unknown>; readonly Architecture: string; readonly RootFS: { readonly Layers: readonly string[] } }]; // podman's documented output
  const { config } = richImage;
  assert.equal(richImage.id, `sha256:${inspected.Id}`);
  assert.deepEqual({ Entrypoint: config.entrypoint, Cmd: config.cmd, Env: config.env, WorkingDir: config.workingDir, User: config.user, StopSignal: config.stopSignal, Labels: config.labels },
    Object.fromEntries(["Entrypoint", "Cmd", "Env", "WorkingDir", "User", "StopSignal", "Labels"].map((key) => [key, inspected.Config[key]])));
  assert.deepEqual(config.exposedPorts.toSorted(), Object.keys(inspected.Config["ExposedPorts"] ?? {}).toSorted());
  assert.deepEqual(config.volumes, Object.keys(inspected.Config["Volumes"] ?? {}));
  assert.deepEqual(config.diffIds, inspected.RootFS.Layers);
  assert.equal(config.architecture, inspected.Architecture);
});

test("the same layers give the same bytes, at another time and as an ordinary user", { skip, timeout: timeoutMs }, async () => {
  const expected = hashOf(richImage);
  await eventually("the clock's next second", () => (Math.floor(Date.now() / 1000) > Math.floor(statSync(richImage.rootfs.path).mtimeMs / 1000) ? true : undefined), { timeoutMs: 5_000 });
  const again = newFolders();
  assert.equal(hashOf(await pullAndOpen(again, rich)), expected);
  const theirs = mkdtempSync(join(tmpdir(), "cm-nobody-"));
  try {
    chownSync(theirs, nobody, nobody);
    const { stdout } = await runAsNobody(process.execPath, [puller, join(theirs, "data"), rich], { timeoutMs, cwd: theirs, env: { PATH: process.env["PATH"], HOME: theirs } });
    assert.equal(sha256(readFileSync(stdout.toString().trim())), expected);
    assert.equal(statSync(stdout.toString().trim()).uid, nobody);
  } finally {
    rmSync(theirs, { recursive: true, force: true });
  }
});

test("the same image comes from a layout, an archive and podman's storage", { skip, timeout: timeoutMs }, async () => {
  // Podman cannot give back a layer that writes through a symbolic link, as the rich image's second does.
  // Archives in docker's format know no zstd.
  const [first = assert.fail(), , last = assert.fail()] = richSource;
  // Padded: skopeo remembers, machine-wide, which archive it has seen compressed how, and would take the rich image's zstd layer.
  const tagged = await push("sources", [first, compress.gzip(Buffer.concat([last.archive, Buffer.alloc(10240)]))], richConfig);
  const expected = hashOf(await pullAndOpen(newFolders(), tagged));
  const archive = join(folder, "Saved.tar");
  await podman.ok("pull", "--quiet", "--tls-verify=false", tagged);
  await runProcess("skopeo", ["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", `docker://${tagged}`, `docker-archive:${archive}:${tagged}`], { timeoutMs });
  const sources: readonly (readonly [string, string])[] = [
    [`oci:${join(folder, "layout-sources")}:image`, "localhost/layout-sources:image"],
    [`docker-archive:${archive}`, "localhost/saved:latest"],
    [`docker-archive:${archive}:${tagged}`, tagged],
    [podman.reference(tagged), tagged],
    [`docker://${tagged}`, tagged],
  ];
  for (const [reference, name] of sources) {
    const folders = newFolders();
    const image = await pullImage(folders, reference, { timeoutMs });
    assert.deepEqual(image.names, [name], reference);
    assert.equal(hashOf(await new ImageStore(folders).open(image)), expected, reference);
    assertNothingHalfMade(folders);
  }
});

test("a path that is not there is not_found", { skip, timeout: timeoutMs }, async () => {
  for (const reference of ["oci:/nowhere/at/all:x", "docker-archive:/nowhere.tar"]) await assertFails(pullImage(newFolders(), reference), "not_found", "image_not_found", /does not exist/);
  await assertFails(pullImage(newFolders(), `oci:${join(folder, "layout-rich")}:other`), "not_found", "image_not_found", /other/);
});

test("a second pull fetches no layer again, and none that another image has brought", { skip, timeout: timeoutMs }, async () => {
  await using front = await RegistryFront.start(registry.address, "pass");
  const own = randomLayer("own", 100_000);
  await push("first", [shared]);
  await push("second", [shared, own]);
  const folders = newFolders();
  const asked = async (name: string): Promise<string[]> => {
    front.blobsAsked.length = 0;
    await pullImage(folders, `${front.address}/test/${name}:v1`, { timeoutMs });
    return front.blobsAsked.filter((digest) => [shared, own].some(({ blob }) => digest === `sha256:${sha256(blob)}`));
  };
  assert.deepEqual(await asked("first"), [`sha256:${sha256(shared.blob)}`]);
  assert.deepEqual(await asked("first"), []);
  assert.deepEqual(await asked("second"), [`sha256:${sha256(own.blob)}`]);
});

test("an image nobody has is not_found at once, one behind a password unauthenticated, a dead registry unavailable", { skip, timeout: timeoutMs }, async () => {
  const folders = newFolders();
  const began = performance.now();
  await assertFails(pullImage(folders, `${registry.address}/denied/digest:v1`), "not_found", "image_not_found", /manifest unknown|name unknown/);
  await assertFails(pullImage(folders, `${registry.address}/test/rich:unknown`), "not_found", "image_not_found", /manifest unknown/);
  assert.ok(performance.now() - began < 5_000, "no second try");
  await using front = await RegistryFront.start(registry.address, "unauthorized");
  await assertFails(pullImage(folders, `${front.address}/test/rich:v1`), "unauthenticated", "image_access_denied", /401|unauthorized|authentication required/i);
  await front[Symbol.asyncDispose]();
  await assertFails(pullImage(folders, `${front.address}/denied/digest:v1`, { timeoutMs }), "unavailable", "registry_unavailable", /connection refused/);
  assertNothingHalfMade(folders);
  assert.deepEqual(blobsOf(folders), []);
});

test("of an image for several platforms, this machine's is pulled", { skip, timeout: timeoutMs }, async () => {
  const own = process.arch === "arm64" ? "arm64" : "amd64", other = own === "arm64" ? "amd64" : "arm64";
  const layout = join(folder, "layout-platforms");
  const manifests = [other, own].map((architecture) => {
    const part = join(folder, `layout-${architecture}`);
    writeOciLayout(part, [compress.none(tarBytes([{ path: architecture, type: "file" }]))], { Labels: { architecture } });
    cpSync(part, layout, { recursive: true });
    const [manifest] = (JSON.parse(readFileSync(join(part, "index.json"), "utf8")) as { readonly manifests: readonly object[] }).manifests; // the fixture's
    return { ...manifest, annotations: undefined, platform: { os: "linux", architecture } };
  });
  const list = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests }));
  writeFileSync(join(layout, "blobs/sha256", sha256(list)), list);
  writeFileSync(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType: "application/vnd.oci.image.index.v1+json", digest: `sha256:${sha256(list)}`, size: list.length, annotations: { "org.opencontainers.image.ref.name": "image" } }] }));
  const reference = `${registry.address}/test/platforms:v1`;
  await runProcess("skopeo", ["copy", "--quiet", "--all", "--insecure-policy", "--dest-tls-verify=false", `oci:${layout}:image`, `docker://${reference}`], { timeoutMs });
  const { config: { labels } } = await pullAndOpen(newFolders(), reference);
  assert.deepEqual(labels, { architecture: own });
});

test("a layer damaged in the registry is data_loss", { skip, timeout: timeoutMs }, async () => {
  const layer = randomLayer("bad", 100_000);
  const reference = await push("damaged", [layer]);
  const hex = sha256(layer.blob);
  damage(join(registry.blobsFolder, "sha256", hex.slice(0, 2), hex, "data"));
  const folders = newFolders();
  await assertFails(pullImage(folders, reference, { timeoutMs }), "data_loss", "image_corrupt", new RegExp(hex));
  assertNothingHalfMade(folders);
  assert.deepEqual(blobsOf(folders), []);
});

test("a blob damaged in the store is data_loss that names it, and the next pull mends it", { skip, timeout: timeoutMs }, async () => {
  const folders = newFolders();
  const store = new ImageStore(folders);
  const image = await pullImage(folders, rich, { timeoutMs });
  for (const hex of blobsOf(folders)) {
    damage(join(folders.data, "images/blobs/sha256", hex));
    await assertFails(store.open(image), "data_loss", "image_corrupt", new RegExp(hex));
    assertNothingHalfMade(folders);
    assert.deepEqual(await pullImage(folders, rich, { timeoutMs }), image);
    rmSync(join(folders.data, "images/rootfs"), { recursive: true, force: true });
    assert.equal(hashOf(await store.open(image)), hashOf(richImage));
    rmSync(join(folders.data, "images/rootfs"), { recursive: true, force: true });
  }
  for (const hex of blobsOf(folders)) rmSync(join(folders.data, "images/blobs/sha256", hex));
  await assertFails(store.open(image), "data_loss", "image_corrupt", /is missing/);
  await store.remove(rich, { force: false, usedBy: () => [] });
  assert.deepEqual(store.list(), [], "an image without blobs can be removed");
});

/** The skopeo processes this process, or the given one, has started. */
function skopeosOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter((text) => text !== "").map(Number);
  return children.filter((child) => readFileSync(`/proc/${child}/comm`, "utf8") === "skopeo\n");
}

/** The one of them that copies; another may be asking for the configuration. */
function copierOf(pid: number): number {
  return skopeosOf(pid).find((child) => readFileSync(`/proc/${child}/cmdline`, "utf8").includes("\0copy\0")) ?? assert.fail("no skopeo copies");
}

test("a pull killed or aborted half way leaves nothing, and the next one works", { skip, timeout: 2 * timeoutMs }, async () => {
  const reference = await push("big", [randomLayer("big", bigLayerBytes)]);
  await using front = await RegistryFront.start(registry.address, "stall");
  const slow = reference.replace(registry.address, front.address);
  const folders = newFolders();

  let stalled = front.stalled();
  const killed = assertFails(pullImage(folders, slow, { timeoutMs }), "unavailable", "registry_unavailable", /SIGKILL/);
  await stalled;
  const skopeo = copierOf(process.pid);
  process.kill(skopeo, "SIGKILL");
  await killed;
  assertNothingHalfMade(folders);
  assert.deepEqual(blobsOf(folders), []);

  const abort = new AbortController();
  stalled = front.stalled();
  const aborted = assert.rejects(pullImage(folders, slow, { signal: abort.signal, timeoutMs }), (error) => RuntimeError.is(error, "canceled"));
  await stalled;
  abort.abort();
  await aborted;
  assert.deepEqual(skopeosOf(process.pid), []);
  assertNothingHalfMade(folders);

  stalled = front.stalled();
  const child = spawn(process.execPath, [puller, folders.data, slow], { stdio: "ignore" });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  await stalled;
  const orphanPid = copierOf(child.pid ?? assert.fail());
  const orphan = identifyProcess(orphanPid) ?? assert.fail("skopeo has ended");
  child.kill("SIGKILL");
  await ended;
  await eventually("skopeo to end with the process that started it", () => (isAlive(orphan) ? undefined : true), { timeoutMs: 5_000 });
  assert.equal(readdirSync(join(folders.data, "images/tmp")).length, 1, "what a killed process leaves");

  // Another image's pull clears it too.
  await pullImage(folders, rich, { timeoutMs });
  assertNothingHalfMade(folders);
  front.behaviour = "pass";
  await pullAndOpen(folders, slow);
  assertNothingHalfMade(folders);
});

test("waiting for another pull of the same image can be aborted", { skip, timeout: timeoutMs }, async () => {
  await using front = await RegistryFront.start(registry.address, "stall");
  const reference = (await push("big", [randomLayer("big", bigLayerBytes)])).replace(registry.address, front.address);
  const folders = newFolders();
  const first = new AbortController(), second = new AbortController();
  const stalled = front.stalled();
  const works = pullImage(folders, reference, { signal: first.signal, timeoutMs });
  await stalled;
  const waits = pullImage(folders, reference, { signal: second.signal, timeoutMs });
  second.abort();
  await assert.rejects(waits, (error) => RuntimeError.is(error, "canceled"));
  first.abort();
  await assert.rejects(works, (error) => RuntimeError.is(error, "canceled"));
  assertNothingHalfMade(folders);
});

test("pulls of one image at the same time agree, in one process and in two", { skip, timeout: timeoutMs }, async () => {
  const folders = newFolders();
  const other = runProcess(process.execPath, [puller, folders.data, rich], { timeoutMs });
  const [first, second] = await Promise.all([pullAndOpen(folders, rich), pullAndOpen(folders, rich), other]);
  assert.equal(first.rootfs.path, second.rootfs.path);
  assert.equal(hashOf(first), hashOf(richImage));
  assert.deepEqual(new ImageStore(folders).list().map(({ names }) => names), [[rich]]);
  assertNothingHalfMade(folders);
});

test("remove() takes names away first, frees blobs no other image needs, and keeps shared ones", { skip, timeout: timeoutMs }, async () => {
  const first = await push("first", [shared, randomLayer("one", 1000)]);
  const second = await push("second", [shared, randomLayer("two", 1000)]);
  const folders = newFolders();
  const store = new ImageStore(folders);
  const options = { force: false, usedBy: () => [] };
  const image = await pullImage(folders, first, { timeoutMs });
  await pullImage(folders, `oci:${join(folder, "layout-first")}:image`, { timeoutMs });
  const secondImage = await pullAndOpen(folders, second);
  await store.open(image);
  const before = blobsOf(folders);

  assert.deepEqual(await store.remove(first, options), { untagged: [first], deleted: undefined });
  assert.deepEqual(blobsOf(folders), before);
  await assertFails(store.remove(first, options), "not_found", "image_not_found", /no such image/);

  const inUse = { force: false, usedBy: (digest: string) => (digest === image.manifestDigest ? ["container web"] : []) };
  await assertFails(store.remove(image.id.slice(7, 19), inUse), "failed_precondition", "image_in_use", /used by container web/);
  assert.deepEqual(blobsOf(folders), before);
  assert.deepEqual(await store.remove(image.id.slice(7, 19), { ...inUse, force: true }), { untagged: ["localhost/layout-first:image"], deleted: image.id });
  const manifest = JSON.parse(readFileSync(join(folders.data, "images/blobs/sha256", secondImage.manifestDigest.slice(7)), "utf8")) as { readonly layers: readonly { readonly digest: string }[] }; // the fixture's
  assert.deepEqual(blobsOf(folders), [secondImage.manifestDigest, secondImage.id, ...manifest.layers.map(({ digest }) => digest)].map((digest) => digest.slice(7)).toSorted());
  assert.deepEqual(readdirSync(join(folders.data, "images/rootfs")), [`${secondImage.manifestDigest.slice(7)}.squashfs`]);
  rmSync(secondImage.rootfs.path);
  assert.equal((await pullAndOpen(folders, second)).id, secondImage.id);

  await store.remove(second, options);
  assert.deepEqual([blobsOf(folders), readdirSync(join(folders.data, "images/rootfs")), store.list()], [[], [], []]);
});

test("a name moves to the newer image, and the older one stays by its id", { skip, timeout: timeoutMs }, async () => {
  const folders = newFolders();
  const store = new ImageStore(folders);
  const reference = await push("moving", [randomLayer("old", 1000)]);
  const older = await pullImage(folders, reference, { timeoutMs });
  await push("moving", [randomLayer("new", 1000)]);
  const newer = await pullImage(folders, reference, { timeoutMs });
  assert.equal(store.find(reference)?.id, newer.id);
  assert.deepEqual(store.find(older.id)?.names, []);
  assert.equal(store.find(older.id.slice(7, 19))?.id, older.id);
});

test("a full disk is resource_exhausted, whatever the step, and nothing is left", { skip, timeout: timeoutMs }, async () => {
  const reference = await push("large", [randomLayer("large", bigLayerBytes)]);
  // Room for no blob; for the blob alone; for blob and archive, but not for all of the root image.
  for (const [sizeMiB, fits] of [[4, "nothing"], [12, "the blob"], [22, "the archive"]] as const) {
    const folders = newFolders();
    await runProcess("mount", ["-t", "tmpfs", "-o", `size=${sizeMiB}m`, "tmpfs", folders.data]);
    try {
      const work = fits === "nothing" ? pullImage(folders, reference, { timeoutMs }) : pullAndOpen(folders, reference);
      await assert.rejects(work, (error) => {
        assert.ok(RuntimeError.is(error, "resource_exhausted"), describeError(error));
        assert.ok((error.hint ?? "") !== "", "there is a next step");
        return true;
      });
      assertNothingHalfMade(folders);
      assert.equal(blobsOf(folders).length, fits === "nothing" ? 0 : 3);
      const rootfs = join(folders.data, "images/rootfs");
      assert.deepEqual(existsSync(rootfs) ? readdirSync(rootfs) : [], []);
      await runProcess("mount", ["-o", "remount,size=64m", folders.data]);
      assert.ok(existsSync((await pullAndOpen(folders, reference)).rootfs.path), "with more room it works");
    } finally {
      await runProcess("umount", [folders.data]);
    }
  }
});
