import assert from "node:assert/strict";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, truncateSync, utimesSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { flipBit } from "../../../test/support/flip-bit.ts";
import { cutPower } from "../../../test/support/power-cut.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { createMemoryFile } from "../../shared/linux/memfd.ts";
import { copyMemory } from "../hypervisor/guest-memory.ts";
import { nothingPlugged } from "../hypervisor/virtual-machine.ts";
import { stateFolders, templatePaths, type StateFolders } from "../store/paths.ts";
import { copyPreparedLayer, findTemplate, hashState, listTemplates, pruneTemplates, publishTemplate, readTemplate, setTemplateAside, type Template } from "./template-store.ts";

const memoryBytes = 256 * 1024;
const keyOf = (digit: string): string => digit.repeat(32);
const prepared = { containerId: "prepared", guestPid: 1, streamId: 1, layerDiskId: "disk1", imageDigest: "sha256:1", title: "image true" };

/** Data and run folder of a test, with what a maker has in its hands. */
class Makers implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), "casemate-store-"));
  readonly folders: StateFolders = stateFolders(this.root);
  readonly #made = mkdtempSync(join(tmpdir(), "casemate-made-"));

  async publish(key: string, content = "the guest's memory"): Promise<Template> {
    const memoryFd = createMemoryFile("casemate-test", memoryBytes);
    try {
      writeSync(memoryFd, content, 0);
      for (const name of ["state", "layer"]) writeFileSync(join(this.#made, name), `${name} of ${content}`);
      return await publishTemplate(this.folders, {
        key, accelerator: "tcg", kernelRelease: "6.1", guestImageId: "image", memoryBytes, madeInMs: 1, plugged: nothingPlugged, memoryFd,
        statePath: join(this.#made, "state"), prepared, layerPath: join(this.#made, "layer"),
      });
    } finally {
      closeSync(memoryFd);
    }
  }

  [Symbol.dispose](): void {
    for (const folder of [this.root, this.#made]) rmSync(folder, { recursive: true, force: true });
  }
}

/** Every byte of a template is what its manifest says. */
async function isWhole(folders: StateFolders, template: Template): Promise<boolean> {
  const { memory, state } = templatePaths(folders, template.key);
  const fd = openSync(memory, "r");
  const copy = join(folders.data, "copy-of-layer");
  try {
    await copyPreparedLayer(folders, template, copy);
    return (await copyMemory(fd, undefined, memoryBytes)).hash === template.memoryHash && hashState(readFileSync(state)) === template.stateHash;
  } finally {
    closeSync(fd);
    rmSync(copy, { force: true });
  }
}

test("wherever the power goes while a template is made, it is whole or not there, and the next maker makes it", async () => {
  using makers = new Makers();
  await makers.publish(keyOf("a"), "one that is there already");
  const cuts = await cutPower(makers.root, () => makers.publish(keyOf("b")));
  try {
    let there = 0;
    for (const { folder, at } of cuts) {
      const folders = stateFolders(folder);
      const templates = listTemplates(folders).map(({ template }) => template);
      assert.ok(templates.some(({ key }) => key === keyOf("a")), at);
      for (const template of templates) assert.ok(await isWhole(folders, template), `${at}: ${template.key}`);
      if (readTemplate(folders, keyOf("b")) !== undefined) there++;
      pruneTemplates(folders);
      assert.deepEqual(readdirSync(join(folder, "templates")).filter((name) => name.startsWith(".")), [], at);
    }
    console.log(`${cuts.length} cuts, the new template there in ${there}`);
    assert.ok(cuts.length >= 16 && there < cuts.length / 2);
    // Once its maker has said that it is there, it stays.
    for (const { folder, at } of cuts.slice(-2)) assert.ok(readTemplate(stateFolders(folder), keyOf("b")), at);
  } finally {
    for (const { folder } of cuts) rmSync(folder, { recursive: true });
  }
});

test("a bit that flipped in a prepared container's layer is found before anybody uses it", async () => {
  using makers = new Makers();
  const { folders } = makers;
  const template = await makers.publish(keyOf("a"));
  const { layer } = templatePaths(folders, template.key);
  const copy = join(makers.root, "copy");
  await copyPreparedLayer(folders, template, copy);
  assert.deepEqual(readFileSync(copy), readFileSync(layer));
  rmSync(copy);
  flipBit(layer, 3);
  await assert.rejects(copyPreparedLayer(folders, template, copy), (error) => RuntimeError.is(error, "data_loss") && error.reason === "template_corrupt");
  assert.equal(existsSync(copy), false);
  truncateSync(layer, 3);
  assert.equal(readTemplate(folders, template.key), undefined);
});

test("a manifest that cannot be read counts as none, and is made anew", async () => {
  using makers = new Makers();
  const { folders } = makers;
  await makers.publish(keyOf("a"));
  truncateSync(templatePaths(folders, keyOf("a")).manifest, 10);
  assert.deepEqual([readTemplate(folders, keyOf("a")), listTemplates(folders)], [undefined, []]);
  await makers.publish(keyOf("a"));
  assert.equal(listTemplates(folders).length, 1);
});

test("a failure to write leaves what was there before, and nothing else", async () => {
  using makers = new Makers();
  const { folders } = makers;
  await makers.publish(keyOf("a"));
  const memoryFd = createMemoryFile("casemate-test", memoryBytes);
  try {
    await assert.rejects(publishTemplate(folders, { key: keyOf("b"), accelerator: "tcg", kernelRelease: "6.1", guestImageId: "image", memoryBytes, madeInMs: 1, plugged: nothingPlugged, memoryFd, statePath: "/does/not/exist" }));
  } finally {
    closeSync(memoryFd);
  }
  assert.deepEqual(readdirSync(join(folders.data, "templates")), [keyOf("a")]);
});

test("two versions of the program have a template each; six are kept, the last used first, and none that was not used for 14 days", async () => {
  using makers = new Makers();
  const { folders } = makers;
  const use = (key: string, ageMs: number): void => utimesSync(templatePaths(folders, key).manifest, new Date(), new Date(Date.now() - ageMs));
  for (const [index, digit] of [..."0123456"].entries()) {
    await makers.publish(keyOf(digit));
    use(keyOf(digit), index * 60_000);
  }
  assert.deepEqual(pruneTemplates(folders), [keyOf("6")]);
  use(keyOf("0"), 15 * 24 * 3_600_000);
  assert.deepEqual(pruneTemplates(folders), [keyOf("0")]);
  assert.equal(findTemplate(folders, "3").key, keyOf("3"));
  assert.throws(() => findTemplate(folders, "0"), (error) => RuntimeError.is(error, "not_found") && error.reason === "template_not_found");
  assert.equal(pruneTemplates(folders, { all: true }).length, 5);
  assert.deepEqual(listTemplates(folders), []);
});

test("what makers and removers have left that died goes; a maker at work is not disturbed, and the last damaged template is kept until then", async () => {
  using makers = new Makers();
  const { folders } = makers;
  const templates = join(folders.data, "templates");
  await makers.publish(keyOf("a"));
  setTemplateAside(folders, keyOf("a"));
  setTemplateAside(folders, keyOf("a"));
  assert.ok(existsSync(join(templates, ".damaged/template.json")));
  mkdirSync(join(folders.run, "templates"), { recursive: true });
  for (const name of [`.new-${keyOf("b")}`, `.new-${keyOf("c")}`, `.gone-${keyOf("d")}`]) mkdirSync(join(templates, name));
  const lock = flockExclusive(templatePaths(folders, keyOf("c")).makerLock);
  assert.ok(lock !== undefined);
  pruneTemplates(folders);
  assert.deepEqual(readdirSync(templates), [`.new-${keyOf("c")}`]);
  closeSync(lock);
});
