// casemate cp, in one sandbox.
// - folders to a new name, into one that is there, and their content alone; both ways
// - owners with -a, and through archives
// - links on the other side lead nowhere, neither a container's here nor this side's there; nor do names in an archive
// - what is missing is named as the user wrote it
import assert from "node:assert/strict";
import { existsSync, lchownSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { useCasemate } from "../support/cli.ts";
import { tarBytes } from "../support/memory-archive.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");

describe("cp", { skip }, () => {
  let folder: string;
  // Registered before the state folders' own end, which looks at the whole host.
  after(() => rmSync(folder, { recursive: true, force: true }));
  const casemate = useCasemate();
  const at = (...names: string[]): string => join(folder, ...names);
  const shell = async (script: string): Promise<string> => casemate.ok(["exec", "box", "sh", "-c", script]);

  before(async () => {
    folder = mkdtempSync("/tmp/cm-cp-");
    mkdirSync(at("site/sub"), { recursive: true });
    writeFileSync(at("site/sub/note"), "note\n");
    symlinkSync("/etc/shadow", at("site/link"));
    for (const name of ["site", "site/sub", "site/sub/note", "site/link"]) lchownSync(at(name), 1234, 567);
    await casemate.ok(["run", "-q", "-d", "--name", "box", "busybox", "sleep", "1000"]);
  });

  test("a folder goes to a new name, into one that is there, or its content alone", async () => {
    for (const target of ["/new", "/new", "/content"]) await casemate.ok(["cp", target === "/content" ? `${at("site")}/.` : at("site"), `box:${target}`]);
    assert.equal(await shell("cat /new/sub/note /new/site/sub/note /content/sub/note; readlink /new/link; stat -c %u:%g /new /new/link"), "note\nnote\nnote\n/etc/shadow\n0:0\n0:0");
    for (const target of ["new", "new", "content"]) await casemate.ok(["cp", target === "content" ? "box:/content/." : "box:/content", at(target)]);
    assert.deepEqual(["new", "content"].map((name) => readdirSync(at(name)).sort()), [["content", "link", "sub"], ["link", "sub"]]);
    assert.equal(readFileSync(at("new/content/sub/note"), "utf8"), "note\n");
    assert.equal(readlinkSync(at("content/link")), "/etc/shadow");
    await shell("ln -s /content /to-content");
    await casemate.ok(["cp", "box:/to-content/.", at("by-link")]);
    assert.deepEqual(readdirSync(at("by-link")).sort(), ["link", "sub"]);
    await casemate.ok(["cp", "-L", "box:/to-content", at("followed")]);
    symlinkSync(at("followed"), at("to-followed"));
    await casemate.ok(["cp", "-L", at("to-followed"), "box:/followed"]);
    assert.equal(await shell("test ! -L /followed && cat /followed/sub/note && readlink /followed/link"), "note\n/etc/shadow");
  });

  test("owners go with -a, and in archives", async () => {
    await casemate.ok(["cp", "-a", at("site"), "box:/owned"]);
    assert.equal(await shell("stat -c %u:%g /owned /owned/link /owned/sub/note"), "1234:567\n1234:567\n1234:567");
    await casemate.ok(["cp", "-a", "box:/owned", at("owned")]);
    assert.deepEqual([lstatSync(at("owned/link")).uid, lstatSync(at("owned/sub/note")).gid], [1234, 567]);
    const { stdoutBytes } = await casemate.run(["cp", "box:/owned/.", "-"]);
    const listed = (await runProcess("tar", ["--list", "--verbose", "--numeric-owner"], { input: stdoutBytes })).stdout.toString();
    assert.match(listed, /^-\S+ 1234\/567 .* \.\/sub\/note$/m);
    assert.match(listed, /^l\S+ 1234\/567 .* \.\/link -> \/etc\/shadow$/m);
    await shell("mkdir /kept /plain");
    await casemate.ok(["cp", "-a", "-", "box:/kept"], { input: stdoutBytes });
    await casemate.ok(["cp", "-", "box:/plain"], { input: stdoutBytes });
    assert.equal(await shell("stat -c %u:%g /kept/sub/note /plain/sub/note"), "1234:567\n0:0");
  });

  test("no link and no name leads out", async () => {
    mkdirSync(at("outside"));
    mkdirSync(at("inside"));
    for (const name of ["folder", "file"]) symlinkSync(at("outside", name === "file" ? "file" : ""), at("inside", name));
    await shell("mkdir -p /evil/folder; echo x >/evil/file");
    await casemate.ok(["cp", "box:/evil/file", at("inside/file")]);
    assert.equal(lstatSync(at("inside/file")).isFile(), true);
    assert.match((await casemate.run(["cp", "box:/evil/.", at("inside")])).stderr, /inside\/folder": something that is no folder is there/);
    assert.deepEqual(readdirSync(at("outside")), []);
    const archive = tarBytes([{ path: "out", type: "symlink", linkPath: "/etc" }, { path: "out/written", type: "file", content: "x" }, { path: "../up", type: "file", content: "x" }]);
    const { code, stderr } = await casemate.run(["cp", "-", "box:/evil"], { input: archive });
    assert.equal(code, 125, stderr);
    assert.equal(await shell("ls -d /etc/written /up /evil/out 2>/dev/null | wc -l"), "0");
  });

  test("what is missing is named as it was written", async () => {
    for (const [from, to, message] of [
      [at("nowhere"), "box:/", `copy "${at("nowhere")}": no such file or folder`],
      [at("site"), "box:/nowhere/deep", "make folder \"/nowhere/deep\": ENOENT: no such file or directory"],
      [at("site/sub/note"), "box:/nowhere/", "copy to \"/nowhere/\": no such folder"],
      [at("site"), "box:/etc/passwd", "make folder \"/etc/passwd\": EEXIST: file already exists"],
      ["-", "box:/nowhere", "copy to \"/nowhere\": no such folder"],
      ["box:/nowhere", folder, "look at \"/nowhere\": ENOENT: no such file or directory"],
      ["box:/etc/passwd/.", at("passwd"), "look at \"/etc/passwd/\": ENOTDIR: not a directory"],
      ["box:/etc/passwd", at("none/passwd"), `copy to "${at("none/passwd")}": no such folder`],
    ] as const) {
      const { code, stdout, stderr } = await casemate.run(["cp", from, to]);
      assert.deepEqual([code, stdout, stderr.split("\n")[0]], [125, "", `casemate: ${message}`]);
    }
    assert.equal(existsSync(at("passwd")), false);
  });
});
