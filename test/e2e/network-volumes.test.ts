// Ports and host folders of one container, from both sides.
// - published TCP and UDP ports answer on the host, on the chosen address alone; a free port is told by ps and inspect
// - a taken port is an error before anything starts
// - names resolve, connections go out, the host's loopback stays out of reach
// - folders, single files, read-only ones, relative ones and named volumes are seen on both sides; a missing folder is made
// - volumes outlive their container
// - without its virtiofsd a container ends with 137, and starts again
import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { signalProcess } from "../../src/shared/linux/proc.ts";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const timeoutMs = 60_000;

describe("ports and volumes", { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), "cm-volumes-")); // before the host is watched, since it goes after that
  const casemate = useCasemate();
  const at = (path: string): string => join(folder, path);
  let tcpPort: number, udpPort: number, webPort: number;
  const inContainer = (script: string): Promise<string> => casemate.ok(["exec", "box", "sh", "-c", script]);

  before(async () => {
    [tcpPort, udpPort] = [await freePort(), await freePort()];
    mkdirSync(at("work/www"), { recursive: true });
    writeFileSync(at("work/www/index.html"), "served from the host\n");
    writeFileSync(at("work/own"), "of a user\n");
    chownSync(at("work/own"), 1234, 100);
    chmodSync(at("work/own"), 0o640);
    mkdirSync(at("fixed"));
    writeFileSync(at("fixed/file"), "unchanged\n");
    writeFileSync(at("single.conf"), "one file\n");
    chmodSync(folder, 0o755);
    await casemate.ok(["run", "-q", "-d", "--name", "box", "-p", `${tcpPort}:80`, "-p", `127.0.0.1:${udpPort}:5353/udp`, "-p", "80",
      "-v", ".:/w", "-v", `${at("fixed")}:/fixed:ro,z`, "-v", `${at("made/by/us")}:/made`, "-v", `${at("single.conf")}:/etc/single.conf`, "-v", "kept:/kept", "-v", "/scratch", "-v", "/usr:/host/usr:ro",
      "busybox", "httpd", "-f", "-p", "80", "-h", "/w/www"], { cwd: at("work") });
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test("a published TCP port answers on the host, and ps and inspect tell the free ones", async () => {
    assert.equal(await httpGet("127.0.0.1", tcpPort), "served from the host\n");
    const { NetworkSettings: { Ports: ports, IPAddress: address } } = await inspect();
    webPort = Number(ports["80/tcp"]?.map(({ HostPort: port }) => Number(port)).find((port) => port !== tcpPort));
    assert.equal(await httpGet("127.0.0.1", webPort), "served from the host\n");
    assert.deepEqual(ports["80/tcp"]?.map(({ HostIp: host }) => host), ["0.0.0.0", "0.0.0.0"]);
    assert.deepEqual(ports["5353/udp"], [{ HostIp: "127.0.0.1", HostPort: String(udpPort) }]);
    assert.match(address, /^10\.87\.\d+\.\d+$/);
    const listed = await casemate.ok(["ps", "--filter", "name=box"]);
    for (const shown of [`0.0.0.0:${tcpPort}->80/tcp`, `0.0.0.0:${webPort}->80/tcp`, `127.0.0.1:${udpPort}->5353/udp`]) assert.ok(listed.includes(shown), listed);
    const external = Object.values(networkInterfaces()).flat().find((entry) => entry?.family === "IPv4" && !entry.internal)?.address;
    if (external !== undefined) assert.equal(await httpGet(external, tcpPort), "served from the host\n", "on all addresses");
  });

  test("a published UDP port answers", async () => {
    // busybox has no server over UDP: the host's perl, without a single module, has.
    const server = `socket(S,2,2,17) && bind(S,pack("Sna4x8",2,5353,"\\0"x4)) or die; while($from=recv(S,$text,999,0)){send(S,$text,0,$from)}`;
    await casemate.ok(["exec", "-d", "box", "sh", "-c", `exec /host/usr/lib/*-linux-gnu/ld-linux-*.so.* --library-path "$(echo /host/usr/lib/*-linux-gnu)" /host/usr/bin/perl -e '${server}'`]);
    assert.equal(await eventually("an answer over UDP", () => udpEcho(udpPort, "ping\n"), { timeoutMs }), "ping\n");
  });

  test("a taken port is an error before anything starts", async () => {
    for (const port of [String(tcpPort), `127.0.0.1:${udpPort}`]) {
      const protocol = port === String(tcpPort) ? "" : "/udp";
      const { code, stderr } = await casemate.run(["run", "-q", "--rm", "-p", `${port}:80${protocol}`, "busybox", "true"]);
      assert.equal(code, 125, stderr);
      assert.match(stderr, new RegExp(`${port.split(":").at(-1) ?? ""}[^]*\nhint: `));
    }
    assert.equal((await casemate.ok(["ps", "-aq"])).split("\n").length, 1);
  });

  test("the container has a name, addresses and resolvers, and cannot reach the host's loopback", async () => {
    const { NetworkSettings: { IPAddress: address }, Id: id } = await inspect();
    assert.equal(await inContainer("hostname"), id.slice(0, 12));
    assert.match(await inContainer("ip -4 addr show eth0"), new RegExp(`inet ${address}/`));
    assert.match(await inContainer("cat /etc/hosts"), new RegExp(`^${address}\\s+${id.slice(0, 12)}$`, "m"));
    assert.match(await inContainer("cat /etc/resolv.conf"), /^nameserver 10\.87\.\d+\.\d+$/m);
    let connections = 0;
    const listener = createServer((socket) => { connections++; socket.destroy(); });
    await new Promise<void>((resolve) => { listener.listen(0, "127.0.0.1", resolve); });
    try {
      const { port } = listener.address() as AddressInfo; // it listens on TCP
      const gateway = await inContainer("ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'");
      for (const host of [gateway, "127.0.0.1"]) assert.equal((await casemate.run(["exec", "box", "nc", "-w", "2", host, String(port)])).code, 1, host);
      assert.equal(connections, 0);
    } finally {
      listener.close();
    }
  });

  test("folders and files of the host are the same on both sides", async () => {
    assert.equal(await inContainer("cat /w/www/index.html /fixed/file /etc/single.conf"), "served from the host\nunchanged\none file");
    assert.equal(await inContainer("stat -c '%u:%g %a' /w/own"), "1234:100 640");
    await inContainer("echo from inside > /w/new && chown 33:33 /w/new && mkdir /w/sub && echo changed >> /etc/single.conf");
    assert.equal(readFileSync(at("work/new"), "utf8"), "from inside\n");
    assert.deepEqual([statSync(at("work/new")).uid, statSync(at("work/new")).gid], [33, 33]);
    assert.equal(readFileSync(at("single.conf"), "utf8"), "one file\nchanged\n");
    writeFileSync(at("work/.replacement"), "replaced by rename\n");
    renameSync(at("work/.replacement"), at("work/new"));
    await eventually("the new file in the container", async () => ((await inContainer("cat /w/new")) === "replaced by rename" ? true : undefined), { timeoutMs, intervalMs: 300 });
    assert.equal(await inContainer("ls -A /scratch | wc -l"), "0");
  });

  test("a read-only folder cannot be written, by root in the guest neither", async () => {
    for (const flags of [[], ["--privileged"]]) {
      const { code, stderr } = await casemate.run(["exec", ...flags, "box", "sh", "-c", "mount -o remount,rw /fixed 2>/dev/null; echo x > /fixed/file"]);
      assert.notEqual(code, 0);
      assert.match(stderr, /Read-only file system|Operation not permitted|Permission denied/);
    }
    assert.equal(readFileSync(at("fixed/file"), "utf8"), "unchanged\n");
  });

  test("a missing source is made as an empty folder, as docker does", async () => {
    assert.ok(statSync(at("made/by/us")).isDirectory());
    assert.equal(statSync(at("made/by/us")).uid, 0);
    await inContainer("echo made > /made/file");
    assert.equal(readFileSync(at("made/by/us/file"), "utf8"), "made\n");
  });

  test("inspect tells the mounts as docker does", async () => {
    const mounts = (await inspect()).Mounts.map(({ Type: type, Name: name = "", Destination: destination, RW: writable }) => [type, name.replace(/^[0-9a-f]{64}$/, "anonymous"), destination, writable]);
    assert.deepEqual(mounts, [["bind", "", "/w", true], ["bind", "", "/fixed", false], ["bind", "", "/made", true], ["bind", "", "/etc/single.conf", true], ["volume", "kept", "/kept", true], ["volume", "anonymous", "/scratch", true], ["bind", "", "/host/usr", false]]);
  });

  test("a named volume outlives its container, and the next one finds it", async () => {
    await inContainer("echo precious > /kept/file");
    assert.equal(await casemate.ok(["rm", "-f", "box"]), "box");
    const volumes = (): string[] => readdirSync(join(casemate.folders.data, "volumes")).sort();
    const before = volumes();
    assert.equal(await casemate.ok(["run", "-q", "--rm", "-v", "kept:/again:ro", "-v", "/more", "busybox", "sh", "-c", "cp /again/file /more; cat /more/file"]), "precious");
    assert.deepEqual(volumes(), before, "a volume without a name goes with --rm");
    assert.ok(existsSync(at("work/new")), "the user's files stay");
  });

  test("the death of virtiofsd ends the container, which starts again", async () => {
    writeFileSync(at("work/go-on"), "");
    const script = "echo running; while test -e /w/go-on; do sleep 0.1; done; echo done";
    const child = casemate.start(["run", "-q", "--name", "lost", "-v", ".:/w", "busybox", "sh", "-c", script], { cwd: at("work") });
    const output = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) child[name].on("data", (chunk: Buffer) => { output[name] += chunk.toString(); });
    const ended = once(child, "close");
    await eventually("the container", () => (output.stdout === "running\n" ? true : undefined), { timeoutMs });
    const { Sandbox: { id } } = await inspect("lost");
    const [virtiofsd, ...others] = findTaggedProcesses(`${id}/virtiofsd`);
    assert.ok(virtiofsd !== undefined);
    for (const identity of [virtiofsd, ...others]) signalProcess(identity, "SIGKILL");
    assert.deepEqual((await ended)[0], 137);
    assert.match(output.stderr, /the container did not end by itself: virtiofsd, .*, has ended, and its VM was ended with it/);
    const { State: { Status: status, ExitCode: exitCode, Error: error } } = await inspect("lost");
    assert.deepEqual([status, exitCode, error], ["exited", 137, "virtiofsd_died"]);
    rmSync(at("work/go-on"));
    assert.equal(await casemate.ok(["start", "-a", "lost"]), "running\ndone");
  });

  async function inspect(name = "box"): Promise<Inspected> {
    const [found] = JSON.parse(await casemate.ok(["inspect", name])) as Inspected[];
    assert.ok(found);
    return found;
  }
});

interface Inspected {
  readonly Id: string;
  readonly Sandbox: { readonly id: string };
  readonly State: { readonly Status: string; readonly ExitCode: number; readonly Error: string };
  readonly NetworkSettings: { readonly IPAddress: string; readonly Ports: Readonly<Record<string, readonly { readonly HostIp: string; readonly HostPort: string }[]>> };
  readonly Mounts: readonly { readonly Type: string; readonly Name?: string; readonly Destination: string; readonly RW: boolean }[];
}

/** A port that nobody listens on, for TCP and, most likely, UDP. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => { server.listen(0, resolve); });
  const { port } = server.address() as AddressInfo; // it listens on TCP
  await new Promise((resolve) => { server.close(resolve); });
  return port;
}

async function httpGet(host: string, port: number): Promise<string> {
  // A connection made before the server listens may get neither an answer nor an end.
  return eventually(`an answer from ${host}:${port}`, async () => {
    try {
      const response = await fetch(`http://${host}:${port}/`, { signal: AbortSignal.timeout(5_000), headers: { connection: "close" } });
      return await response.text();
    } catch {
      return undefined;
    }
  }, { timeoutMs });
}

/** Sends a datagram and waits a second for one back. */
async function udpEcho(port: number, text: string): Promise<string | undefined> {
  const socket = createSocket("udp4");
  try {
    const answer = new Promise<string | undefined>((resolve) => {
      socket.once("message", (message) => resolve(message.toString()));
      socket.once("error", () => resolve(undefined));
      setTimeout(() => resolve(undefined), 1_000);
    });
    socket.send(text, port, "127.0.0.1");
    return await answer;
  } finally {
    socket.close();
  }
}
