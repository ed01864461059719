import assert from "node:assert/strict";
import { test } from "node:test";
import { brokenLinks, fileProblems, missingDocuments, undocumentedReasons } from "./check-files.ts";

const todo = "TO" + "DO"; // apart, because this file is checked too

test("fileProblems() reports names that say nothing", () => {
  for (const path of ["src/host/utils.ts", "src/shared/types.test.ts", "src/cli/helper.ts"]) assert.match(fileProblems([{ path, text: "" }]).join(), /after its subject/, path);
  assert.deepEqual(fileProblems([{ path: "src/host/store/mount-types.ts", text: "" }]), []);
});

test("fileProblems() reports unfinished work, paths of one machine and skips by hand, with the line", () => {
  assert.match(fileProblems([{ path: "a.ts", text: `fine\n// ${todo}: later` }]).join(), /a\.ts:2: .*finish it or file it/);
  assert.match(fileProblems([{ path: "a.md", text: "see /wo" + "rk/main/docs" }]).join(), /a path of one machine/);
  assert.match(fileProblems([{ path: "a.test.ts", text: "test.sk" + "ip(" }]).join(), /use requires/);
  assert.deepEqual(fileProblems([{ path: "a.md", text: "-v .:/work or -w /work is the container's path" }]), []);
});

test("brokenLinks() follows relative links only", () => {
  const text = "[a](package.json) [b](https://example.org/x) [c](missing.md#part) [d](#here)";
  assert.deepEqual(brokenLinks(new URL("..", import.meta.url).pathname, [{ path: "README.md", text }]), ["README.md: links to missing.md, which does not exist"]);
});

test("missingDocuments() looks for every document that a text names", () => {
  const documents = ["docs/files.md", "docs/adr/0002-native-calls.md"];
  const text = "// docs/files.md, docs/adr/0002: fine. docs/adr/0003, docs/gone.md. https://example.org/docs/other.md";
  assert.deepEqual(missingDocuments([{ path: "src/a.ts", text }, { path: "src/a.test.ts", text: "docs/made-up.md" }], documents), [
    "src/a.ts: names docs/adr/0003, which does not exist",
    "src/a.ts: names docs/gone.md, which does not exist",
  ]);
});

test("undocumentedReasons() compares the code with the page", () => {
  const files = [{ path: "src/a.ts", text: 'throw new RuntimeError("internal", "x", { reason: "vmm_died" }); ({ reason: "name_taken" })\nreadonly reason: "powered_off" | "died";' }, { path: "src/a.test.ts", text: 'reason: "made_up"' }];
  assert.deepEqual(undocumentedReasons(files, "| `vmm_died` | ... |"), ['src/a.ts: reason "name_taken" is not in docs/errors.md']);
});
