// Two containers of different images in one VM, through the engine's own API.
// - one from a registry: three layers with whiteouts, a named user with groups, a working directory, an
//   entrypoint, environment, file capabilities and attributes; the other is the embedded busybox
// - what the first one's process sees of itself, and root of its files, is what podman shows of the same
//   image, and what crun shows of the same config on this host
// - both run at once, in one VM, and are apart; each ends with its own exit code, and the VM with them
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { Writable } from "node:stream";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { createContainer } from "../../src/host/containers/create-container.ts";
import type { ContainerOptions } from "../../src/host/containers/container-options.ts";
import { newSandboxId } from "../../src/host/containers/names.ts";
import { prepareHost } from "../../src/host/containers/prepare-host.ts";
import { AttachClient } from "../../src/host/control/attach-client.ts";
import { connectOwner, type OwnerClient } from "../../src/host/control/owner-client.ts";
import { startOwner } from "../../src/host/control/start-owner.ts";
import { defaultMemoryBytes } from "../../src/host/sandbox/sandbox-config.ts";
import { ensureImage } from "../../src/host/storage/images/pull.ts";
import { ensureWritableLayer } from "../../src/host/storage/writable-layer.ts";
import type { ContainerRecord } from "../../src/host/store/container-store.ts";
import { containerPaths } from "../../src/host/store/paths.ts";
import type { RunnableSpec } from "../../src/shared/oci/runtime-spec.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { CreateOptionsSchema } from "../../src/shared/protocol/gen/owner_pb.ts";
import { useCasemate } from "../support/cli.ts";
import { compress, pushLayout, richConfig, richLayers, writeOciLayout } from "../support/image-fixture.ts";
import { entryBytes, type TestEntry } from "../support/memory-archive.ts";
import { Podman } from "../support/podman.ts";
import { Registry } from "../support/registry.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root", "podman", "docker-registry");
const timeoutMs = 120_000;
const exitCode = 42;
const hostname = "reference";

/** What a process sees of itself. Podman's own variables are left out. */
const probeScript = `#!/bin/sh
echo "arguments: $#"
for argument in "$0" "$@"; do echo "argument: $argument"; done
echo "id: $(id -u):$(id -g) groups $(id -G)"
echo "folder: $(pwd)"
env | grep -vE '^(container|TERM|SHLVL|PWD|OLDPWD|_)=' | sort | sed 's/^/env: /'
grep -E '^(Uid|Gid|Groups|NoNewPrivs|Cap)' /proc/self/status
/opt/caps/grep -E '^Cap' /proc/self/status | sed 's/^/with file capabilities: /'
echo "umask: $(umask)"
touch /srv/app/written /forbidden 2>&1 | sed 's/^/touch: /'
exit ${exitCode}
`;

/** What root sees of the image's files. Not how many links they have: overlayfs counts those in a layer below that a higher one hides. What a runtime puts into /etc, /dev and the like is its own affair. */
const listScript = `for path in $(find /bin /becomes-folder /gone /kept /links /long /opaque /opt /srv /swap /usr /lib /absolute /etc/passwd /etc/group /etc/empty | sort); do
  stat -c '%n %f %u:%g %t:%T' "$path"
  [ ! -f "$path" ] || sha256sum "$path"
  [ ! -L "$path" ] || readlink "$path"
done
getfattr -R -P -h -d -m - -e hex --absolute-names /bin /kept /opt /links /srv`;

let registry: Registry;
let podman: Podman;
let folder: string;
let reference: string;
// Registered before the state folders' own end, which looks at the whole host.
after(async () => {
  if (skip !== false) return;
  await podman.close();
  await registry[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
}, { timeout: timeoutMs });
const { folders } = useCasemate();

before(async () => {
  if (skip !== false) return;
  folder = mkdtempSync("/tmp/cm-two-");
  registry = await Registry.start();
  podman = Podman.in(folder);
  reference = `${registry.address}/test/three-layers:v1`;
  const [first = assert.fail(), second = assert.fail(), third = assert.fail()] = await richLayers();
  const tools = Buffer.concat((await toolEntries()).map(entryBytes));
  writeOciLayout(join(folder, "layout"), [first, second, compress.gzip(Buffer.concat([tools, third.archive]))], { ...richConfig, User: "app" });
  await pushLayout(join(folder, "layout"), reference);
  await podman.ok("pull", "--quiet", "--tls-verify=false", reference);
}, { timeout: timeoutMs });

/** A shell, a program with file capabilities, and getfattr with its libraries, as ldd finds them here. */
async function toolEntries(): Promise<TestEntry[]> {
  const busybox = readFileSync(["/usr/bin/busybox", "/bin/busybox"].find((path) => existsSync(path)) ?? "/bin/busybox");
  const { stdout } = await runProcess("ldd", ["/usr/bin/getfattr"]);
  const libraries = [...stdout.toString().matchAll(/(\/\S+) \(0x/g)].map(([, path = ""]) => path);
  // vfs_cap_data, revision 2, effective: cap_net_raw (13) permitted; capabilities(7).
  const capNetRaw = "\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
  const applets = ["env", "find", "grep", "id", "readlink", "sed", "sha256sum", "sort", "stat", "touch"];
  return [
    { path: "usr/bin", type: "folder" },
    { path: "usr/bin/busybox", type: "file", mode: 0o755, content: busybox },
    { path: "bin/sh", type: "symlink", linkPath: "/usr/bin/busybox" },
    ...applets.map((name): TestEntry => ({ path: `usr/bin/${name}`, type: "symlink", linkPath: "busybox" })),
    { path: "usr/bin/entry", type: "file", mode: 0o755, content: probeScript },
    { path: "opt/caps", type: "folder" },
    { path: "opt/caps/grep", type: "file", mode: 0o755, content: busybox, xattrs: new Map([["security.capability", capNetRaw]]) },
    { path: "etc/group", type: "file", content: "root:x:0:\nusers:x:100:\nstaff:x:50:app,other\nwheel:x:10:app\n" },
    { path: "usr/bin/getfattr", type: "file", mode: 0o755, content: readFileSync("/usr/bin/getfattr") },
    ...libraries.map((path): TestEntry => ({ path: path.slice(1).replace(/^lib\//, "usr/lib/"), type: "file", mode: 0o755, content: readFileSync(path) })),
  ];
}

/** How a process ended and what it printed. */
interface Ran { readonly exitStatus: number; readonly stdout: string; readonly stderr: string }

/** A container in the sandbox, made and not started; with a host name of its own instead of the guest's if one is given. */
async function make(client: OwnerClient, options: ContainerOptions, ownHostname?: string): Promise<ContainerRecord> {
  const record = createContainer(folders, { hostname, network: "none", ...options }, await ensureImage(folders, options.image));
  const paths = containerPaths(folders, record.containerId);
  if (ownHostname !== undefined) {
    const spec = readSpec(record);
    writeFileSync(paths.spec, JSON.stringify({ ...spec, hostname: ownHostname, linux: { ...spec.linux, namespaces: [...spec.linux?.namespaces ?? [], { type: "uts" }] } }));
  }
  await ensureWritableLayer(folders, paths.disk);
  await client.task.create({
    id: record.containerId,
    bundle: paths.folder,
    rootfs: [...record.rootfs.map(({ path, fsType }) => ({ type: fsType, source: path, options: ["ro"] })), { type: "ext4", source: paths.disk, options: ["rw"] }],
    options: anyPack(CreateOptionsSchema, create(CreateOptionsSchema, { user: record.user, createCwd: true, containerFolder: paths.folder, guestEtcFiles: true })),
  }, { timeoutMs });
  return record;
}

function readSpec({ containerId }: ContainerRecord): RunnableSpec {
  return JSON.parse(readFileSync(containerPaths(folders, containerId).spec, "utf8")) as RunnableSpec; // written by createContainer
}

/** Starts it and takes what it prints until it ends. */
async function follow(client: OwnerClient, { containerId }: ContainerRecord): Promise<Ran> {
  const output = { stdout: "", stderr: "" };
  const into = (name: keyof typeof output): Writable => new Writable({ write: (chunk: Buffer, _encoding, done) => { output[name] += chunk.toString("latin1"); done(); } });
  const attach = await AttachClient.open(client, { containerId, execId: "" }, { stdin: undefined, stdout: into("stdout"), stderr: into("stderr") });
  await client.task.start({ id: containerId }, { timeoutMs });
  const end = await attach.run();
  assert.ok(end.type === "exit");
  return { exitStatus: end.exitStatus, ...output };
}

/** The same container by podman. */
async function byPodman(options: readonly string[], args: readonly string[]): Promise<Ran> {
  const { exitCode: exitStatus, stdout, stderr } = await podman.runContainer(["--rm", "--network", "none", "--hostname", hostname, ...options, reference, ...args], [0, exitCode]);
  return { exitStatus, stdout: stdout.toString("latin1"), stderr };
}

/** The container's own config by crun on this host, over the image's files as podman mounts them. */
async function byCrun(record: ContainerRecord, user: RunnableSpec["process"]["user"]): Promise<Ran> {
  const bundle = join(folder, "bundle");
  mkdirSync(bundle);
  await runProcess("cp", ["--archive", `${await podman.ok("image", "mount", reference)}/.`, join(bundle, "rootfs")]);
  await podman.ok("image", "umount", reference);
  const spec = readSpec(record);
  writeFileSync(join(bundle, "config.json"), JSON.stringify({ ...spec, process: { ...spec.process, user }, linux: { ...spec.linux, resources: {} } }));
  const { exitCode: exitStatus, stdout, stderr } = await podman.inCgroups(["crun", "--root", join(folder, "crun"), "--cgroup-manager=disabled", "run", "--bundle", bundle, "cm-two"], [0, exitCode]);
  return { exitStatus, stdout: stdout.toString("latin1"), stderr };
}

test("two containers of different images in one VM, each as podman and crun show it", { skip, timeout: 3 * timeoutMs }, async () => {
  const { setup } = await prepareHost(folders, { debug: false, coldBoot: false, onProgress: () => undefined });
  const sandboxId = newSandboxId();
  const { guestImage: { kernelPath, initramfsPath, rootImagePath }, accelerator, template, startTimeoutMs } = setup;
  await startOwner({
    version: 1, sandboxId, folders, hostname, accelerator, kernelPath, initramfsPath, rootImagePath, template, startTimeoutMs,
    memoryBytes: defaultMemoryBytes, vcpuCount: 1, shares: false, network: "none", ports: [], debug: false,
  }, { timeoutMs });
  const client = await connectOwner(folders, sandboxId);
  try {
    const other = await make(client, { image: "busybox", command: ["sh", "-c", "trap 'exit 7' TERM; id -u; hostname; ls /srv /opt 2>&1; while :; do sleep 0.1; done"], name: "other" }, "other");
    const otherRan = follow(client, other);
    const three = await make(client, { image: reference, command: [], name: "three" });
    const seen = await follow(client, three);
    const files = await follow(client, await make(client, { image: reference, command: ["-c", listScript], entrypoint: "/bin/sh", user: "0", name: "files" }));

    const podmanSeen = await byPodman([], []);
    const crunSeen = await byCrun(three, { uid: 1234, gid: 100, additionalGids: [100, 50, 10] });
    assert.deepEqual(lines(seen), lines(podmanSeen), "as podman");
    assert.deepEqual(lines(seen), lines(crunSeen), "as crun");
    for (const expected of ["id: 1234:100 groups 100 10 50", "folder: /srv/app", "argument: two words", "env: EMPTY=", "with file capabilities: CapEff:\t0000000000002000", "CapEff:\t0000000000000000"]) {
      assert.ok(lines(seen).includes(expected), `${expected} is not in ${seen.stdout}`);
    }
    assert.equal(seen.exitStatus, exitCode);

    const podmanFiles = await byPodman(["--user", "0", "--entrypoint", "/bin/sh"], ["-c", listScript]);
    // Sorted: getfattr goes by the order of the folder, which is the file system's.
    assert.deepEqual(lines(files).toSorted(), lines(podmanFiles).toSorted(), "files as podman");
    assert.ok(files.stdout.includes("security.capability=0x0100000200200000") && files.stdout.includes("user.binary=") && !files.stdout.includes("/kept/hidden"), files.stdout);
    assert.equal(files.exitStatus, 0, files.stderr);

    // The other one has run all along, in the same VM, and saw nothing of the first one's files.
    const { state, containers } = await client.owner.inspect({}, { timeoutMs });
    assert.equal(state, "running");
    assert.deepEqual(containers.map(({ containerId, status }) => [containerId, status]).filter(([, status]) => status === "running"), [[other.containerId, "running"]]);
    await client.task.kill({ id: other.containerId, signal: 15 }, { timeoutMs });
    const ended = await otherRan;
    assert.equal(ended.exitStatus, 7);
    assert.deepEqual(ended.stdout.split("\n").slice(0, 2), ["0", "other"]);
    assert.match(ended.stdout, /\/srv: No such file/);
  } finally {
    await client.owner.stop({ timeoutMs: 5_000 }, { timeoutMs });
    client.close();
  }
});

function lines({ exitStatus, stdout, stderr }: Ran): string[] {
  return [`exit status ${exitStatus}`, ...stdout.trimEnd().split("\n"), ...stderr.trimEnd().split("\n")];
}
