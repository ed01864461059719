// `casemate run` to its end, as a script calls it.
// - exit codes as docker's: the command's own, 126, 127, 128+n; 137 by memory says which option to raise
// - stdin reaches the container, its end too; output is the container's alone, notes are on stderr, none with -q
// - every option that shapes the container is seen inside it
// - what the image says holds unless the caller says otherwise
// - mistakes are named, with what to do, before anything starts
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { useCasemate } from "../support/cli.ts";
import { compress, writeOciLayout } from "../support/image-fixture.ts";
import { tarBytes } from "../support/memory-archive.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const timeoutMs = 60_000;

describe("run", { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), "cm-run-")); // before the host is watched, since it goes after that
  const casemate = useCasemate();
  after(() => rmSync(folder, { recursive: true }));

  test("ends with the command's code; its output is on stdout, our notes on stderr", async () => {
    const { code, stdout, stderr } = await casemate.run(["run", "--rm", "busybox", "sh", "-c", "uname -r; echo problem >&2; exit 7"]);
    assert.equal(code, 7, stderr);
    assert.notEqual(stdout.trim(), release(), "the guest's kernel, not the host's");
    assert.match(stdout, /^\d+\.\d+\.\S+\n$/);
    assert.match(stderr, /^problem$/m);
    const accelerator = (JSON.parse(readFileSync(join(casemate.folders.data, "accelerator.json"), "utf8")) as { accelerator: string }).accelerator;
    assert.equal(stderr.match(/emulation \(TCG\)/g)?.length ?? 0, accelerator === "kvm" ? 0 : 1, stderr);
    assert.equal(await casemate.ok(["ps", "-aq"]), "", "--rm leaves nothing");
  });

  test("ends with 127 for a command that is not there, and 126 for one that cannot run", async () => {
    for (const [code, program] of [[127, "no-such-program"], [126, "/etc/passwd"]] as const) {
      const result = await casemate.run(["run", "--rm", "-q", "busybox", program]);
      assert.equal(result.code, code, result.stderr);
      assert.equal(result.stdout, "");
      assert.ok(result.stderr.includes(program), result.stderr);
      assert.match(result.stderr, /^hint: /m);
      assert.equal(result.stderr.split("\n").length, 3, `one line and a hint: ${result.stderr}`);
    }
    assert.equal(await casemate.ok(["ps", "-aq"]), "", "a start that failed leaves nothing with --rm");
  });

  test("ends with 137 when memory runs out, and says which option to raise", async () => {
    const { code, stderr } = await casemate.run(["run", "-q", "--name", "hungry", "-m", "32m", "busybox", "sh", "-c", "cat /sys/fs/cgroup/memory.max >&2; x=0123456789; while :; do x=$x$x; done"]);
    assert.equal(code, 137, stderr);
    assert.match(stderr, /^33554432\n.*out of memory; raise --memory\n$/);
    const [{ State: state, HostConfig: { Memory: memory } }] = JSON.parse(await casemate.ok(["inspect", "hungry"])) as [{ State: object; HostConfig: { Memory: number } }];
    assert.deepEqual({ ...state, StartedAt: "", FinishedAt: "" }, { Status: "exited", Running: false, Paused: false, Restarting: false, OOMKilled: true, Dead: false, Pid: 0, ExitCode: 137, Error: "", StartedAt: "", FinishedAt: "" });
    assert.equal(memory, 33_554_432);
    assert.equal(await casemate.ok(["rm", "hungry"]), "hungry");
  });

  test("has left no file and no process behind when it returns with --rm", async () => {
    const before = sandboxParts(casemate.folders.run);
    for (const args of [["true"], ["sh", "-c", "exit 3"], ["no-such-program"]]) {
      await casemate.run(["run", "-q", "--rm", "-v", `${folder}:/w`, "busybox", ...args]);
      assert.deepEqual(sandboxParts(casemate.folders.run).filter((part) => !before.includes(part)), [], args.join(" "));
    }
  });

  test("leaves nothing of a sandbox whose run was a mistake: its owner was started before that was seen", async () => {
    const before = sandboxParts(casemate.folders.run);
    for (const args of [["--no-such-option", "busybox"], [], ["--from-snapshot", "none"]]) assert.equal((await casemate.run(["run", ...args])).code, 125, args.join(" "));
    await eventually("owners without a sandbox end", () => (sandboxParts(casemate.folders.run).every((part) => before.includes(part)) ? true : undefined), { timeoutMs });
  });

  test("passes input on to its end, and prints nothing of its own with -q", async () => {
    const input = Buffer.from(Array.from({ length: 70_000 }, (_, index) => index % 256));
    const { code, stdoutBytes, stderr } = await casemate.run(["run", "--rm", "-q", "-i", "busybox", "cat"], { input });
    assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
    assert.ok(stdoutBytes.equals(input));
  });

  test("gives the container what the options say", async () => {
    const script = [
      "echo user $(id -u):$(id -g)", "echo groups $(id -G)", "echo home $HOME", "echo folder $(pwd)", "echo name $(hostname)", "echo hosts $(grep -c chosen /etc/hosts)",
      "echo variables $ONE/$TWO/$THREE/${UNSET-none}", "echo cpus $(cat /sys/fs/cgroup/cpu.max) of $(nproc)", "echo memory $(cat /sys/fs/cgroup/memory.max)",
      "touch /root-file 2>/dev/null; echo root $?", "echo 1 > /dev/shm/x; echo shm $?", "echo capabilities $(grep CapEff /proc/self/status | cut -f 2)",
      "echo first $(cat /proc/1/comm)", "mount -t tmpfs x /tmp 2>/dev/null && echo mount done || echo mount refused", "echo links $(ls /sys/class/net | tr '\\n' ' ')", "[ -t 0 ]; echo terminal $?",
      "echo masked $(wc -c < /proc/keys 2>/dev/null)", "echo 1 > /proc/sys/vm/swappiness 2>/dev/null; echo sysctl $?",
    ].join("\n");
    const output = await casemate.ok(["run", "--rm", "-q", "-e", "ONE=1", "-e", "TWO", "-e", "THREE=a=b c", "-e", "UNSET", "-w", "/made/for/this", "-u", "www-data:users", "--hostname", "chosen",
      "--cpus", "1.5", "--memory", "100m", "--read-only", "--network", "none", "--label", "a=b", "--entrypoint", "sh", "busybox", "-c", script], { env: { TWO: "from here", UNSET: undefined } });
    assert.deepEqual(Object.fromEntries(output.split("\n").map((line) => [line.split(" ", 1)[0], line.slice(line.indexOf(" ") + 1)])), {
      user: "33:100", groups: "100", home: "/var/www", folder: "/made/for/this", name: "chosen", hosts: "0",
      variables: "1/from here/a=b c/none", cpus: "150000 100000 of 2", memory: "104857600",
      root: "1", shm: "0", capabilities: "0000000000000000", first: "sh", mount: "refused", links: "lo", terminal: "1", masked: "0", sysctl: "1",
    });
  });

  test("gives a privileged container all rights in its guest", async () => {
    const script = "grep CapEff /proc/self/status | cut -f 2; mount -t tmpfs x /home && echo mounted; echo 61 > /proc/sys/vm/swappiness && cat /proc/sys/vm/swappiness; mkdir /sys/fs/cgroup/own && echo cgroup; mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg >/dev/null && echo device";
    assert.equal(await casemate.ok(["run", "--rm", "-q", "--privileged", "busybox", "sh", "-c", script]), "000001ffffffffff\nmounted\n61\ncgroup\ndevice");
  });

  test("honours what the image says, and asks it to end with its own signal", async () => {
    const image = await makeImage(folder);
    await casemate.ok(["pull", "-q", image]);
    await casemate.ok(["run", "-q", "-d", "--name", "service", "-P", "-e", "ADDED=yes", "localhost/service:image"]);
    await eventually("the service to be ready", async () => ((await casemate.ok(["logs", "service"])).includes("ready") ? true : undefined), { timeoutMs, intervalMs: 300 });
    assert.equal(await casemate.ok(["logs", "service"]), "arguments: --flag one two words\nuser 1234:100 in /srv/app with image/yes\nready");
    const [{ NetworkSettings: { Ports: ports }, Config: config }] = JSON.parse(await casemate.ok(["inspect", "service"])) as [{ NetworkSettings: { Ports: Record<string, { HostPort: string }[]> }; Config: Record<string, unknown> }];
    assert.deepEqual(Object.keys(ports).sort(), ["53/udp", "80/tcp"]);
    assert.ok(Object.values(ports).every(([port]) => Number(port?.HostPort) > 1023), JSON.stringify(ports));
    assert.deepEqual({ Entrypoint: config["Entrypoint"], Cmd: config["Cmd"], User: config["User"], WorkingDir: config["WorkingDir"], StopSignal: config["StopSignal"], Labels: config["Labels"] },
      { Entrypoint: ["/bin/entry", "--flag"], Cmd: ["one", "two words"], User: "app:users", WorkingDir: "/srv/app", StopSignal: "SIGUSR1", Labels: { "org.example": "yes" } });
    assert.equal(await casemate.ok(["stop", "service"]), "service");
    assert.match(await casemate.ok(["logs", "service"]), /\nstopped by USR1$/);
    assert.equal(await casemate.ok(["wait", "service"]), "4");
  });

  test("takes the caller's command for the image's, and the caller's entrypoint for both", async () => {
    assert.equal(await casemate.ok(["run", "--rm", "-q", "--entrypoint", "/bin/echo", "localhost/service:image", "only", "this"]), "only this");
  });

  test("refuses what it cannot do, and says what to do instead", async () => {
    const cases: readonly (readonly [args: readonly string[], message: RegExp])[] = [
      [["--network", "backend", "busybox"], /no named networks: use --network user and publish ports with -p/],
      [["--network", "host", "busybox"], /publish ports with -p/],
      [["--link", "db", "busybox"], /option --link is not supported\nhint: .*publish a port with -p/],
      [["--device", "/dev/sda", "busybox"], /option --device is not supported\nhint: /],
      [["--nmae", "x", "busybox"], /unknown option '--nmae'[^]*--name/],
      [["--cpus", "many", "busybox"], /--cpus "many": must be a number/],
      [["--cpus", "1000", "busybox"], /the host has \d+\nhint: lower --cpus/],
      [["--memory", "lots", "busybox"], /--memory "lots": must be a size\nhint: for example 512m/],
      [["--memory", "1m", "busybox"], /at least 6 MiB\nhint: raise --memory/],
      [["--hostname", "a_b", "busybox"], /host name "a_b"/],
      [["-p", "80:http", "busybox"], /80:http/],
      [["--network", "none", "-p", "80:80", "busybox"], /leave out --network none or -p/],
      [["-v", "relative/path:/x", "busybox"], /a path starts with \/ or \.\//],
      [["-v", "/tmp:x", "busybox"], /must be absolute/],
      [["--name", "-bad-", "busybox"], /container name/],
      [["-w", "x", "busybox"], /must be an absolute path/],
      [["-it", "busybox"], /not a TTY\nhint: leave out -t/],
      [["--stop-signal", "NOPE", "busybox"], /signal "NOPE": no such signal/],
      [["no/such/image:1"], /no\/such\/image/],
      [[], /no image is named\nhint: .*casemate run/],
    ];
    for (const [args, message] of cases) {
      const { code, stdout, stderr } = await casemate.run(["run", "-q", ...args]);
      assert.deepEqual({ code, stdout }, { code: 125, stdout: "" }, `${args.join(" ")}: ${stderr}`);
      assert.match(stderr, message, args.join(" "));
    }
    assert.equal(await casemate.ok(["ps", "-aq", "--filter", "status=created"]), "", "nothing was made");
  });
});

/** An image with everything a config can say; its program tells what it got. */
async function makeImage(folder: string): Promise<string> {
  const entry = [
    "#!/bin/sh", "trap 'echo stopped by USR1; exit 4' USR1",
    "echo \"arguments: $*\"", "echo \"user $(id -u):$(id -g) in $PWD with $FROM/$ADDED\"", "echo ready", "while :; do sleep 0.1; done", "",
  ].join("\n");
  const layer = compress.gzip(tarBytes([
    { path: "bin", type: "folder" },
    { path: "bin/busybox", type: "file", mode: 0o755, content: readFileSync("/bin/busybox") },
    ...["sh", "id", "sleep", "echo"].map((name) => ({ path: `bin/${name}`, type: "symlink", linkPath: "busybox" }) as const),
    { path: "bin/entry", type: "file", mode: 0o755, content: entry },
    { path: "etc", type: "folder" },
    { path: "etc/passwd", type: "file", content: "root:x:0:0::/root:/bin/sh\napp:x:1234:50::/srv/app:/bin/sh\n" },
    { path: "etc/group", type: "file", content: "users:x:100:\n" },
  ]));
  const layout = join(folder, "service");
  writeOciLayout(layout, [layer], {
    User: "app:users", WorkingDir: "/srv/app", Entrypoint: ["/bin/entry", "--flag"], Cmd: ["one", "two words"], Env: ["PATH=/bin", "FROM=image"],
    StopSignal: "SIGUSR1", ExposedPorts: { "80/tcp": {}, "53/udp": {} }, Labels: { "org.example": "yes" },
  });
  return `oci:${layout}:image`;
}

/** Folders of sandboxes, and processes that were started for one. */
function sandboxParts(run: string): string[] {
  const folder = join(run, "sandboxes");
  const processes = readdirSync("/proc").filter((name) => /^\d+$/.test(name) && fileText(`/proc/${name}/environ`).includes("CASEMATE_RESOURCE="));
  return [...(existsSync(folder) ? readdirSync(folder) : []), ...processes.map((pid) => `${pid} ${fileText(`/proc/${pid}/cmdline`)}`)];
}

/** Empty for a process that is gone. */
function fileText(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}
