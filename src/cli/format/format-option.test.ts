import assert from "node:assert/strict";
import { test } from "node:test";
import { formatObjects, formatRows, parseFormat } from "./format-option.ts";

const row = { Names: "web", State: { Status: "running", Pid: 7 }, Labels: { "a b": "c" }, Mounts: [{ Source: "/x" }] };
const rendered = (template: string): string => formatRows([row], parseFormat(template), () => "the default\n");

test("parseFormat fills fields of every depth into text", () => {
  assert.equal(rendered("{{.Names}}"), "web\n");
  assert.equal(rendered("{{ .Names }}: {{.State.Status}} ({{.State.Pid}})\\t!"), "web: running (7)\t!\n");
  assert.equal(rendered("{{json .Mounts}} {{json .Names}}"), "[{\"Source\":\"/x\"}] \"web\"\n");
  assert.equal(rendered("{{index .Labels \"a b\"}} {{index .Mounts 0}}"), "c {\"Source\":\"/x\"}\n");
  assert.equal(rendered("{{json .}}"), `${JSON.stringify(row)}\n`);
});

test("parseFormat knows json and table, with columns of one's own", () => {
  assert.equal(rendered("json"), `${JSON.stringify(row)}\n`);
  assert.equal(rendered("table"), "the default\n");
  assert.equal(rendered("table {{.Names}}\\t{{.State.Status}}"), "NAMES     STATUS\nweb       running\n");
  assert.equal(formatObjects([row, row], parseFormat("{{.Names}}")), "web\nweb\n");
  assert.deepEqual(JSON.parse(formatObjects([row], parseFormat("json"))), [row]);
});

test("parseFormat refuses what it does not know, by name", () => {
  for (const [text, message] of [["yaml", /neither/], ["{{range .Mounts}}{{.Source}}{{end}}", /"\{\{range \.Mounts\}\}" is not understood/], ["{{.Nmaes}}", /no field "Nmaes", only Names, State, Labels, Mounts/], ["{{.Names.First}}", /no field "First"$/]] as const) {
    assert.throws(() => rendered(text), (error: Error & { reason?: string }) => error.reason === "bad_format" && message.test(error.message), text);
  }
});
