import assert from "node:assert/strict";
import { closeSync, fstatSync, mkdtempSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createMemoryFile } from "../../shared/linux/memfd.ts";
import { nothingPlugged } from "../hypervisor/virtual-machine.ts";
import { stateFolders } from "../store/paths.ts";
import { holdTemplateMemory, openTemplateMemory, releaseTemplateMemory } from "./template-memory.ts";
import type { Template } from "./template-store.ts";

const template: Template = {
  version: 1, key: "0123456789abcdef0123456789abcdef", accelerator: "tcg", kernelRelease: "6.1", guestImageId: "image", memoryBytes: 1024 * 1024, memoryHash: "", memoryUsedBytes: 0, stateBytes: 0, stateHash: "", createdAtUnixMs: 0, madeInMs: 0, plugged: nothingPlugged,
};

test("everybody who opens a template's memory gets the one that is held, while its holder waits", async () => {
  const folders = stateFolders(mkdtempSync(join(tmpdir(), "casemate-template-")));
  const made = createMemoryFile("casemate-test", template.memoryBytes);
  try {
    writeSync(made, "the guest's memory", 0);
    await holdTemplateMemory(folders, template.key, made);
    // Nothing is on disk that it could be read from instead.
    const opened = [await openTemplateMemory(folders, template), await openTemplateMemory(folders, template)];
    for (const { fd, useFd } of opened) {
      const bytes = Buffer.alloc(18);
      readSync(fd, bytes, 0, bytes.length, 0);
      assert.equal(bytes.toString(), "the guest's memory");
      assert.equal(fstatSync(fd).ino, fstatSync(made).ino);
      closeSync(fd);
      closeSync(useFd);
    }
  } finally {
    closeSync(made);
    await releaseTemplateMemory(folders);
    rmSync(folders.data, { recursive: true, force: true });
  }
});
