import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { RuntimeError } from "../../shared/base/errors.ts";
import { FileRequestSchema, WatchFileRequestSchema } from "../../shared/protocol/gen/file_pb.ts";
import { ContainerFiles } from "./container-files.ts";
import { ContainerRoot } from "./container-root.ts";

type Operation = NonNullable<MessageInitShape<typeof FileRequestSchema>["operation"]>;

/** A container's root in a folder, with a secret beside it that nothing may reach. */
class Fixture implements Disposable {
  readonly top = mkdtempSync(join(tmpdir(), "casemate-files-"));
  readonly root = join(this.top, "root");
  readonly files: ContainerFiles;

  constructor() {
    mkdirSync(join(this.root, "w"), { recursive: true });
    mkdirSync(join(this.top, "outside"));
    writeFileSync(join(this.top, "outside/secret"), "secret");
    const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
    this.files = new ContainerFiles(() => ContainerRoot.at(this.root, owner));
  }

  perform(path: string, operation: Operation): ReturnType<ContainerFiles["perform"]> {
    return this.files.perform(create(FileRequestSchema, { containerId: "c", path: Buffer.from(path), operation }));
  }

  async write(path: string, content: string, append = false): Promise<void> {
    const { handle = 0 } = await this.perform(path, { case: "open", value: { write: true, append } });
    await this.perform("/", { case: "write", value: { handle, bytes: Buffer.from(content) } });
    await this.perform("/", { case: "close", value: { handle } });
  }

  async read(path: string): Promise<string> {
    const { handle = 0 } = await this.perform(path, { case: "open", value: {} });
    const { bytes } = await this.perform("/", { case: "read", value: { handle, length: 1024 } });
    await this.perform("/", { case: "close", value: { handle } });
    return Buffer.from(bytes ?? []).toString();
  }

  host(path: string): string {
    return join(this.root, path);
  }

  [Symbol.dispose](): void {
    rmSync(this.top, { recursive: true, force: true });
  }
}

const fails = (code: string) => (error: unknown): boolean => RuntimeError.is(error) && error.code === code;

test("ContainerFiles writes, appends to and reads a file, and says what it is", async () => {
  using fixture = new Fixture();
  await fixture.write("/w/a", "one");
  await fixture.write("/w/a", "two");
  await fixture.write("/w/a", "!", true);
  assert.equal(await fixture.read("/w/a"), "two!");
  const { facts } = await fixture.perform("/w/a", { case: "stat", value: { followLink: true } });
  assert.equal((facts?.mode ?? 0) & 0o777, 0o644);
  assert.equal(facts?.sizeBytes, 4n);
});

test("ContainerFiles lists names in order, with links as links", async () => {
  using fixture = new Fixture();
  writeFileSync(fixture.host("w/b"), "");
  symlinkSync("/nowhere", fixture.host("w/a"));
  const { entries = [], more } = await fixture.perform("/w", { case: "list", value: {} });
  assert.deepEqual(entries.map(({ name, linkTarget }) => [Buffer.from(name ?? []).toString(), Buffer.from(linkTarget ?? []).toString()]), [["a", "/nowhere"], ["b", ""]]);
  assert.equal(more, false);
  assert.equal((await fixture.perform("/w", { case: "list", value: { skip: 1 } })).entries?.length, 1);
});

test("ContainerFiles makes, renames and removes folders and links", async () => {
  using fixture = new Fixture();
  await fixture.perform("/w/x/y", { case: "makeFolder", value: { recursive: true, attributes: { mode: 0o700 } } });
  assert.equal(statSync(fixture.host("w/x/y")).mode & 0o777, 0o700);
  await assert.rejects(fixture.perform("/w/x", { case: "makeFolder", value: {} }), fails("already_exists"));
  await fixture.perform("/w/x", { case: "rename", value: { to: Buffer.from("/w/z") } });
  await fixture.perform("/w/z/l", { case: "makeSymlink", value: { target: Buffer.from("../t") } });
  assert.equal(readlinkSync(fixture.host("w/z/l")), "../t");
  await assert.rejects(fixture.perform("/w/z", { case: "remove", value: {} }), fails("failed_precondition"));
  await fixture.perform("/w/z", { case: "remove", value: { recursive: true } });
  assert.deepEqual(readdirSync(fixture.host("w")), []);
  await assert.rejects(fixture.perform("/w/z", { case: "remove", value: {} }), fails("not_found"));
  await fixture.perform("/w/z", { case: "remove", value: { force: true } });
});

test("ContainerFiles: no link leads out of the root", async () => {
  using fixture = new Fixture();
  const outside = join(fixture.top, "outside");
  symlinkSync(outside, fixture.host("absolute"));
  symlinkSync("../outside", fixture.host("relative"));
  symlinkSync(`${outside}/secret`, fixture.host("w/file"));
  for (const path of ["/absolute/secret", "/relative/secret", "/../outside/secret", "/w/../../outside/secret", "/w/file"]) {
    await assert.rejects(fixture.read(path), fails("not_found"), path);
  }
  await assert.rejects(fixture.perform("/absolute", { case: "list", value: {} }), fails("not_found"));
  await assert.rejects(fixture.write("/absolute/new", "x"), fails("not_found"));
  await fixture.perform("/absolute", { case: "setAttributes", value: { modifiedUnixNanos: 0n } }); // the link's own
  await fixture.perform("/relative", { case: "remove", value: { recursive: true } });
  assert.equal(existsSync(fixture.host("relative")), false);
  assert.equal(readFileSync(join(outside, "secret"), "utf8"), "secret");
  assert.deepEqual(readdirSync(outside), ["secret"]);
});

test("ContainerFiles: removing a folder removes the links in it and not what they lead to", async () => {
  using fixture = new Fixture();
  mkdirSync(fixture.host("w/d/e"), { recursive: true });
  symlinkSync("/keep", fixture.host("w/d/e/l"));
  mkdirSync(fixture.host("keep"));
  writeFileSync(fixture.host("keep/f"), "");
  await fixture.perform("/w/d", { case: "remove", value: { recursive: true } });
  assert.equal(existsSync(fixture.host("keep/f")), true);
  assert.equal(lstatSync(fixture.host("w")).isDirectory(), true);
});

test("ContainerFiles refuses what it cannot mean", async () => {
  using fixture = new Fixture();
  await assert.rejects(fixture.read("w/a"), fails("invalid_argument"));
  await assert.rejects(fixture.read("/w\0/a"), fails("invalid_argument"));
  await assert.rejects(fixture.read("/w"), (error: unknown) => RuntimeError.is(error, "invalid_argument") && error.reason === "not_a_file");
  await assert.rejects(fixture.perform("/", { case: "remove", value: { recursive: true } }), fails("invalid_argument"));
  await assert.rejects(fixture.perform("/w/..", { case: "remove", value: { recursive: true } }), fails("invalid_argument"));
  await assert.rejects(fixture.perform("/", { case: "read", value: { handle: 7, length: 1 } }), (error: unknown) => RuntimeError.is(error) && error.reason === "file_closed");
});

test("ContainerFiles.watch() tells of a new file", async () => {
  using fixture = new Fixture();
  const stop = new AbortController();
  const changes = fixture.files.watch(create(WatchFileRequestSchema, { containerId: "c", path: Buffer.from("/w") }), stop.signal);
  await changes.next(); // says that the watch has begun
  writeFileSync(fixture.host("w/new"), "");
  const { value } = await changes.next() as { readonly value: { readonly kind?: string; readonly name?: Uint8Array } };
  assert.equal(value.kind, "rename");
  assert.equal(Buffer.from(value.name ?? []).toString(), "new");
  stop.abort();
  await changes.return(undefined);
});
