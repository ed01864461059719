// The command line itself; nothing is started.
// - every command has help with an example; version in both ways
// - bash completes commands, and names there are now
// - inspect has docker's keys, and finds images too
// - a mistyped command or option gets the nearest one, everything else the way to the help
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { useCasemate } from "../support/cli.ts";
import { Pty } from "../support/pty.ts";

/** A completion asks the command, which takes its time on a busy machine. */
const timeoutMs = 60_000;

describe("the command line", () => {
  const casemate = useCasemate();

  test("every command has help with an example", async () => {
    const help = await casemate.ok(["--help"]);
    const commands = [...help.matchAll(/^ {2}([a-z]+) .*\S$/gm)].map(([, name = ""]) => name).filter((name) => !["casemate", "help"].includes(name));
    for (const expected of ["run", "create", "start", "exec", "ps", "inspect", "logs", "stop", "kill", "rm", "wait", "attach", "version"]) assert.ok(commands.includes(expected), expected);
    for (const command of commands.filter((name) => !["build", "check"].includes(name))) {
      const text = await casemate.ok([command, "--help"]);
      assert.match(text, new RegExp(`^Usage: casemate ${command}`));
      assert.match(text, new RegExp(`\nExamples?:\n[^]*casemate ${command}`), command);
      assert.equal(await casemate.ok(["help", command]), text);
    }
  });

  test("version says which casemate and which Node", async () => {
    const { version } = JSON.parse(readFileSync(join(import.meta.dirname, "../../package.json"), "utf8")) as { version: string };
    for (const option of ["--version", "-v"]) assert.equal(await casemate.ok([option]), `casemate version ${version}`);
    assert.equal(await casemate.ok(["version", "-f", "{version}"]), version);
    assert.match(await casemate.ok(["version"]), new RegExp(`^casemate ${version.replaceAll(".", "\\.")}\nNode.js  24\\.21\\.0\n`));
    assert.deepEqual(JSON.parse(await casemate.ok(["version", "--format", "json"])), { Version: version, Node: "24.21.0", Os: "linux", Arch: "x64" });
  });

  test("D21: what is not offered is an error; a mistake is named, with the nearest name or the way to the help", async () => {
    const cases: readonly (readonly [args: readonly string[], stderr: string])[] = [
      [["rnu"], "casemate: unknown command 'rnu'\nhint: did you mean run? see `casemate --help`\n"],
      [["exce", "x", "sh"], "casemate: unknown command 'exce'\nhint: did you mean exec? see `casemate --help`\n"],
      [["--rot", "/x", "ps"], "casemate: unknown option '--rot'\nhint: did you mean --root? see `casemate --help`\n"],
      [["run", "--nmae", "x", "busybox"], "casemate: unknown option '--nmae'\nhint: did you mean --name? see `casemate run --help`\n"],
      [["logs", "--folow", "x"], "casemate: unknown option '--folow'\nhint: did you mean --follow? see `casemate logs --help`\n"],
      [["stop", "--xyzzy", "x"], "casemate: unknown option '--xyzzy'\nhint: see `casemate stop --help`\n"],
      [["inspect"], "casemate: missing required argument 'name'\nhint: see `casemate inspect --help`\n"],
      [["ps", "all"], "casemate: too many arguments for 'ps'. Expected 0 arguments but got 1: all.\nhint: see `casemate ps --help`\n"],
      [["ps", "--format", "yaml"], "casemate: --format \"yaml\": is neither \"json\" nor \"table\" nor a template\nhint: for example --format json, or --format '{{.Name}}'; for more than fields use json and jq\n"],
      [["kill", "-s", "NOPE", "x"], "casemate: signal \"NOPE\": no such signal\nhint: for example TERM, SIGHUP or 9\n"],
      [["pull", "--tls-verify", "busybox", "x"], "casemate: option '--tls-verify <yes>' argument 'busybox' is invalid. Allowed choices are true, false.\nhint: see `casemate pull --help`\n"],
      [["info"], "casemate: casemate has no command \"info\"\nhint: `casemate check` says what this machine can do, `casemate version` which versions run\n"],
      [["image", "push", "x"], "casemate: casemate has no command \"push\"\nhint: push with `podman push` or `skopeo copy`\n"],
      [["system", "df"], "casemate: casemate has no command \"df\"\nhint: `casemate images`, `casemate ps -as`, `casemate template ls` and `casemate snapshot ls` show what takes the disk\n"],
      [["pull", "--platform", "linux/s390x", "busybox"], "casemate: --platform \"linux/s390x\": only linux/amd64 can run here\nhint: use an image of this machine's kind\n"],
      [["load", "-i", import.meta.filename], `casemate: load image "${import.meta.filename}": tar: This does not look like a tar archive\nhint: give an archive that docker, podman or casemate has saved\n`],
      [["run", "-p"], "casemate: option '-p, --publish <[ip:]host:container[/udp]>' argument missing\nhint: see `casemate run --help`\n"],
    ];
    for (const [args, expected] of cases) {
      const { code, stdout, stderr } = await casemate.run(args);
      assert.deepEqual({ code, stdout, stderr }, { code: 125, stdout: "", stderr: expected });
    }
  });

  test("bash completes commands, and names there are now", async () => {
    const [launcher, ...options] = casemate.commandLine([]);
    await casemate.ok(["create", "-q", "--name", "live-name", "busybox", "true"]);
    await using bash = Pty.run(["bash", "--norc", "--noprofile", "-i"], { env: { INPUTRC: "/dev/null", PS1: "> " } });
    await bash.waitFor(/> /, { timeoutMs });
    bash.type(`casemate() { ${[launcher, ...options].join(" ")} "$@"; }; eval "$(casemate completion bash)"; echo rea''dy\n`);
    await bash.waitFor(/ready\r\n/, { timeoutMs });
    bash.type("casemate insp\t");
    await bash.waitFor(/casemate inspect /, { timeoutMs });
    bash.type("li\t");
    await bash.waitFor(/casemate inspect live-name /, { timeoutMs });
    bash.type("\x15exit\n");
    assert.equal(await bash.exit({ timeoutMs }), 0);
    await casemate.ok(["rm", "live-name"]);
  });

  test("inspect shows what was asked for, and finds images too", async () => {
    await casemate.ok(["create", "-q", "--name", "z", "--pids-limit", "9", "--cap-drop", "all", "--ulimit", "nofile=1:2", "--add-host", "db:10.1.2.3", "--shm-size", "1m", "--memory-reservation", "64m", "--log-opt", "max-size=1m", "busybox", "true"]);
    await casemate.ok(["update", "--cpu-shares", "5", "z"]);
    const [{ HostConfig: config, SizeRw: written }] = JSON.parse(await casemate.ok(["inspect", "-s", "z"])) as [{ readonly HostConfig: Readonly<Record<string, unknown>>; readonly SizeRw: number }];
    const expected = { PidsLimit: 9, CapDrop: ["ALL"], CapAdd: null, Ulimits: [{ Name: "nofile", Hard: 2, Soft: 1 }], ExtraHosts: ["db:10.1.2.3"], ShmSize: 1024 ** 2, MemoryReservation: 64 * 1024 ** 2, CpuShares: 5, LogConfig: { Type: "json-file", Config: { "max-size": "1048576" } } };
    assert.deepEqual({ ...config, ...expected }, config);
    assert.equal(written, 0);
    assert.equal(await casemate.ok(["inspect", "-f", "{{json .RepoTags}}", "busybox"]), await casemate.ok(["image", "inspect", "-f", "{{json .RepoTags}}", "busybox"]));
    const { code, stdout, stderr } = await casemate.run(["inspect", "--type", "container", "busybox"]);
    assert.deepEqual([code, stdout, /no such container: busybox/.test(stderr)], [1, "[]\n", true]);
    assert.match((await casemate.run(["inspect", "nobody"])).stderr, /no such container or image: nobody/);
    await casemate.ok(["rm", "z"]);
    const limited = "{{json .HostConfig.NanoCpus}} {{json .HostConfig.NetworkMode}} {{json .HostConfig.DnsOptions}}";
    await casemate.ok(["create", "-q", "--name", "z", "--cpu-quota", "50000", "--net", "none", "--dns-opt", "ndots:2", "-v", "/scratch", "-v", "kept:/kept", "busybox", "true"]);
    assert.equal(await casemate.ok(["container", "inspect", "-f", limited, "z"]), "500000000 \"none\" [\"ndots:2\"]");
    const sources = (await casemate.ok(["inspect", "-f", "{{json .Mounts}}", "z"])).match(/[^"]*\/volumes\/[^"]*(?=\/_data)/g) ?? [];
    for (const source of sources) mkdirSync(source, { recursive: true });
    await casemate.ok(["rm", "-v", "z"]);
    assert.deepEqual(sources.map((source) => existsSync(source)), [false, true], "the one without a name is gone");
    assert.equal(await casemate.ok(["container", "list", "-aq"]), "");
    assert.equal(await casemate.ok(["image", "list", "-aq"]), await casemate.ok(["images", "-q"]));
  });

  test("options after the image are the container's", async () => {
    const { code, stderr } = await casemate.run(["create", "-q", "--name", "x", "busybox", "ls", "--nmae", "-it"]);
    assert.equal(code, 0, stderr);
    const [{ Path: path, Args: args }] = JSON.parse(await casemate.ok(["inspect", "x"])) as [{ Path: string; Args: string[] }];
    assert.deepEqual([path, ...args], ["ls", "--nmae", "-it"]);
    assert.equal(await casemate.ok(["inspect", "-f", "{{.Name}} {{.State.Status}} {{json .Config.Cmd}}", "x"]), "/x created [\"ls\",\"--nmae\",\"-it\"]");
    assert.match((await casemate.run(["rename", "x", "x"])).stderr, /^casemate: rename container "x": that is its name already\nhint: choose another name\n$/);
    await casemate.ok(["create", "-q", "--name", "y", "-l", "of=test", "busybox", "true"]);
    for (const [args, names] of [[["-a"], "y\nx"], [["-l"], "y"], [["-n", "1", "--filter", "name=x"], "x"], [["-n", "2"], "y\nx"], [["-a", "--filter", "label=of"], "y"], [["-a", "--filter", "label=of=x"], ""], [["-a", "--filter", "name=^x$"], "x"], [["-a", "--filter", "before=y"], "x"], [["-a", "--filter", "since=x"], "y"], [["--filter", "exited=0"], ""], [["-a", "--filter", "network=none"], ""]] as const) {
      assert.equal(await casemate.ok(["ps", ...args, "--format", "{{.Names}}"]), names, args.join(" "));
    }
    assert.equal(await casemate.ok(["events", "--since", "1h", "--until", "0s", "--filter", "container=y", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"]), "");
    assert.match(await casemate.ok(["container", "prune", "-f", "--filter", "until=1h"]), /^Total reclaimed space: 0B$/);
    assert.match(await casemate.ok(["container", "prune", "-f", "--filter", "until=0s", "--filter", "label=of=test"]), /^Deleted Containers:\n[0-9a-f]{64}\n\nTotal reclaimed space: 0B$/);
    assert.equal(await casemate.ok(["ps", "-a", "--format", "table {{.Names}}\\t{{.State}}"]), "NAMES     STATE\nx         created");
    assert.equal(await casemate.ok(["ps", "-a", "--format", "{names} {state}"]), "x created");
    assert.match(await casemate.ok(["ps", "-as"]), /NAMES +SIZE\n.* x +0B \(virtual [\d.]+MB\)$/);
  });
});
