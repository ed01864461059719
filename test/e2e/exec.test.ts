// Further processes in a running container, all in one sandbox.
// - exit codes as docker's: the command's own, 126, 127, 128+n
// - stdin is binary clean and its end reaches the process; stdout and stderr stay apart
// - environment, folder, user and rights are the container's unless the caller says otherwise
// - any number at once; a signal goes to the exec alone; -d does not wait
// - --vm is root in the guest itself
// - what cannot work says what to do instead
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { before, describe, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
/** Far above what an exec under emulation on a loaded machine takes. */
const timeoutMs = 30_000;

describe("exec", { skip }, () => {
  const casemate = useCasemate();
  const inContainer = (...command: string[]) => casemate.run(["exec", "x", ...command]);

  before(() => casemate.ok(["run", "-q", "-d", "--name", "x", "-e", "FROM=run", "-w", "/tmp", "busybox", "sh", "-c", "sleep 1000 & wait"]));

  test("ends with the command's exit code, or docker's for one that cannot run", async () => {
    const codes: readonly (readonly [code: number, ...command: string[]])[] = [
      [0, "true"], [7, "sh", "-c", "exit 7"], [137, "sh", "-c", "kill -KILL $$"], [143, "sh", "-c", "kill -TERM $$"], [130, "sh", "-c", "kill -INT $$"],
    ];
    for (const [code, ...command] of codes) {
      const result = await inContainer(...command);
      assert.deepEqual({ code: result.code, stderr: result.stderr }, { code, stderr: "" }, command.join(" "));
    }
    const missing = await inContainer("no-such-program");
    assert.equal(missing.code, 127);
    assert.match(missing.stderr, /no-such-program/);
    for (const notExecutable of ["/etc/passwd", "/etc"]) {
      const result = await inContainer(notExecutable);
      assert.equal(result.code, 126, result.stderr);
      assert.ok(result.stderr.includes(notExecutable), result.stderr);
    }
  });

  test("keeps stdout and stderr apart and passes bytes as they are", async () => {
    const both = await inContainer("sh", "-c", "printf 'out\\000\\377'; printf err >&2");
    assert.deepEqual(both.stdoutBytes, Buffer.from("out\0\xff", "latin1"));
    assert.equal(both.stderr, "err");
    const input = randomBytes(300_000);
    const echoed = await casemate.run(["exec", "-i", "x", "cat"], { input });
    assert.equal(echoed.code, 0, echoed.stderr);
    assert.ok(echoed.stdoutBytes.equals(input));
    assert.equal(await casemate.ok(["exec", "-i", "x", "sha256sum"], { input }), `${createHash("sha256").update(input).digest("hex")}  -`);
  });

  test("takes no input without -i", async () => {
    assert.equal(await casemate.ok(["exec", "x", "sh", "-c", "wc -c"], { input: "ignored" }), "0");
  });

  test("ends though nobody has closed its input", async () => {
    const child = casemate.start(["exec", "-i", "x", "sh", "-c", "head -n 1; exit 3"]);
    child.stdin.write("line\n");
    const code = await new Promise((resolve) => { child.once("close", resolve); });
    child.stdin.destroy();
    assert.equal(code, 3);
  });

  test("has the container's environment, folder and user unless told otherwise", async () => {
    const script = "echo $FROM $EXTRA $(pwd) $(id -u):$(id -g) $(id -G)";
    assert.equal(await casemate.ok(["exec", "x", "sh", "-c", script]), "run /tmp 0:0 0");
    assert.equal(await casemate.ok(["exec", "-e", "FROM=exec", "-e", "EXTRA", "-w", "/var/www", "-u", "www-data", "x", "sh", "-c", script], { env: { EXTRA: "mine" } }), "exec mine /var/www 33:33 33");
    assert.equal(await casemate.ok(["exec", "-u", "1234:users", "x", "sh", "-c", "id -u; id -g"]), "1234\n100");
    assert.equal(await casemate.ok(["exec", "-u", "nobody:7", "x", "sh", "-c", "id -u; id -g"]), "65534\n7");
    assert.equal(await casemate.ok(["exec", "-u", "nobody", "x", "sh", "-c", "echo $HOME"]), "/home");
  });

  test("has the container's rights, all of the guest's with --privileged", async () => {
    const capabilities = "grep CapEff /proc/self/status | cut -f 2";
    assert.equal(await casemate.ok(["exec", "x", "sh", "-c", capabilities]), "00000000a80425fb");
    assert.equal(await casemate.ok(["exec", "--privileged", "x", "sh", "-c", capabilities]), "000001ffffffffff");
    assert.equal(await casemate.ok(["exec", "-u", "nobody", "x", "sh", "-c", capabilities]), "0000000000000000");
  });

  test("runs any number at once", async () => {
    const results = await Promise.all(Array.from({ length: 12 }, (_, index) => casemate.run(["exec", "-i", "x", "sh", "-c", `cat; exit ${index}`], { input: `input of ${index}` })));
    assert.deepEqual(results.map(({ code, stdout, stderr }) => ({ code, stdout, stderr })), results.map((_, index) => ({ code: index, stdout: `input of ${index}`, stderr: "" })));
  });

  test("passes signals to the command alone", async () => {
    const child = casemate.start(["exec", "x", "sh", "-c", "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.1; done"]);
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => { output += String(chunk); });
    const closed = new Promise((resolve) => { child.once("close", resolve); });
    await eventually("the trap to be set", () => output.includes("ready") || undefined, { timeoutMs });
    child.kill("SIGTERM");
    assert.equal(await closed, 9);
    assert.equal(output, "ready\ngot it\n");
    const plain = casemate.start(["exec", "x", "sh", "-c", "echo ready; exec sleep 100"]);
    const started = new Promise((resolve) => { plain.stdout.once("data", resolve); });
    const ended = new Promise((resolve) => { plain.once("close", resolve); });
    await started;
    plain.kill("SIGINT");
    assert.equal(await ended, 130);
    assert.equal(await casemate.ok(["ps", "-q", "--filter", "name=x"]) === "", false, "the container goes on");
  });

  test("ends the command when whoever reads its output has seen enough", async () => {
    const piped = spawnSync("sh", ["-c", `"$@" | head -n 1`, "sh", ...casemate.commandLine(["exec", "x", "yes", "no-end"])], { encoding: "utf8", timeout: timeoutMs });
    assert.deepEqual({ status: piped.status, stdout: piped.stdout, stderr: piped.stderr }, { status: 0, stdout: "no-end\n", stderr: "" });
    await eventually("the end of yes", async () => ((await inContainer("pidof", "yes")).code === 1 ? true : undefined), { timeoutMs, intervalMs: 300 });
  });

  test("with -d returns at once and leaves the command running", async () => {
    assert.equal(await casemate.ok(["exec", "-d", "x", "sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.1; done; echo done > /tmp/detached"]), "");
    assert.equal((await inContainer("sh", "-c", "test -e /tmp/detached || { touch /tmp/go; exit 1; }")).code, 1);
    await eventually("the detached command to end", async () => ((await inContainer("cat", "/tmp/detached")).stdout === "done\n" ? true : undefined), { timeoutMs, intervalMs: 500 });
    assert.equal((await casemate.run(["exec", "-d", "x", "no-such-program"])).code, 127);
  });

  test("with --vm is root in the guest, outside of all containers", async () => {
    const guest = await casemate.ok(["exec", "--vm", "x", "sh", "-c", "id -u; tr '\\0' ' ' < /proc/1/cmdline"]);
    assert.match(guest, /^0\n\S*node .*agent\.js/);
    assert.match(await casemate.ok(["exec", "--vm", "x", "ps"]), /sleep 1000/);
    assert.equal((await casemate.run(["exec", "--vm", "x", "sh", "-c", "exit 5"])).code, 5);
    assert.equal((await casemate.run(["exec", "--vm", "x", "no-such-program"])).code, 127);
    assert.equal(await casemate.ok(["exec", "--vm", "-i", "x"], { input: "echo from a shell\n" }), "from a shell", "a shell is the default");
  });

  test("says what is wrong and what to do", async () => {
    const cases: readonly (readonly [args: readonly string[], code: number, message: RegExp])[] = [
      [["nowhere", "true"], 125, /no such container: nowhere\nhint: .*casemate ps -a/],
      [["x"], 125, /needs a command\nhint: .*casemate exec -it x sh/],
      [["-w", "relative", "x", "true"], 125, /must be an absolute path/],
      [["-w", "/not/there", "x", "true"], 126, /\/not\/there/],
      [["-u", "stranger", "x", "true"], 125, /stranger/],
      [["-u", "root:strangers", "x", "true"], 125, /strangers/],
      [["-it", "x", "sh"], 125, /not a TTY\nhint: leave out -t/],
      [["-e", "=x", "x", "true"], 125, /has no name/],
      [["--evn", "A=1", "x", "true"], 125, /unknown option '--evn'[^]*--env/],
    ];
    for (const [args, code, message] of cases) {
      const result = await casemate.run(["exec", ...args]);
      assert.equal(result.code, code, `${args.join(" ")}: ${result.stderr}`);
      assert.match(result.stderr, message, args.join(" "));
    }
  });
});
