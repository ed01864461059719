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

test("parseFormat takes single braces too, and names in any case", () => {
  assert.equal(rendered("{names}: {State.Status} {state.pid}\\t{}{0}"), "web: running 7\t{}{0}\n");
  assert.equal(rendered("{{.names}} {names}"), "web {names}\n", "beside double braces single ones are text, as docker has it");
  assert.equal(rendered("{\"name\": {{json .Names}}}"), "{\"name\": \"web\"}\n");
  assert.equal(formatRows([{ id: 1, ID: 2 }], parseFormat("{id} {ID} {Id}"), () => ""), "1 2 1\n");
});

test("formatRows heads columns with docker's words", () => {
  const headings = { ID: "CONTAINER ID", CPUPerc: "CPU %" };
  const heads = (template: string, rows: readonly object[]): string | undefined => formatRows(rows, parseFormat(template), () => "", headings).split("\n")[0];
  const line = { ID: "1", CPUPerc: "2", CreatedAt: "3", PIDs: "4" };
  for (const rows of [[], [line]]) assert.equal(heads("table {{.ID}}\t{{.CPUPerc}}\t{{.CreatedAt}}\t{{.PIDs}}", rows), "CONTAINER ID   CPU %     CREATED AT   PIDS");
  assert.equal(heads("table {id}\t{createdat}", [line]), "CONTAINER ID   CREATED AT");
});

test("parseFormat refuses what it does not know, by name", () => {
  for (const [text, message] of [["yaml", /neither/], ["{na me}", /neither/], ["{nmaes}", /no field "nmaes", only Names, State, Labels, Mounts/], ["{{range .Mounts}}{{.Source}}{{end}}", /"\{\{range \.Mounts\}\}" is not understood/], ["{{.Nmaes}}", /no field "Nmaes", only Names, State, Labels, Mounts/], ["{{.Names.First}}", /no field "First"$/]] as const) {
    assert.throws(() => rendered(text), (error: Error & { reason?: string }) => error.reason === "bad_format" && message.test(error.message), text);
  }
});
