// Makes one template: node template.js REQUEST, a file with a TemplateRequest as JSON. Detached from
// whoever asked: the next one needs the template too.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describeError } from "../../shared/base/errors.ts";
import { Logger } from "../../shared/base/log.ts";
import { templatePaths } from "../store/paths.ts";
import { makeTemplate, type TemplateRequest } from "./make-template.ts";

const [, , argument] = process.argv;
if (argument === undefined) {
  console.error("usage: template REQUEST");
  process.exit(2);
}
const request = JSON.parse(readFileSync(argument, "utf8")) as TemplateRequest; // written by ensure-template.ts
const { makerLog } = templatePaths(request.folders, request.key);
mkdirSync(dirname(makerLog), { recursive: true, mode: 0o700 });
const say = (what: string): void => writeFileSync(makerLog, what, { mode: 0o600 });
try {
  await makeTemplate(request, new Logger({ fields: { template: request.key } }), say);
} catch (error) {
  say(`failed: ${describeError(error)}`);
  process.exitCode = 1;
}
