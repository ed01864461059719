import { existsSync, mkdirSync, openSync, closeSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { eventually, type WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { isFlocked } from "../../shared/linux/flock.ts";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";
import { cleanEnvironment, startProcess } from "../../shared/linux/run-process.ts";
import { machineFacts } from "../assemble.ts";
import { packageNode, packageRoot } from "../config/package-root.ts";
import { templatePaths } from "../store/paths.ts";
import { templateKey } from "../template/template-key.ts";
import { readTemplate } from "../template/template-store.ts";
import type { TemplateRequest } from "./make-template.ts";

/** After a failure nobody tries again for this long. */
const retryAfterMs = 10 * 60_000;
const pollMs = 50;
const failedPrefix = "failed: ";

/** The template to start from, or why there is none. */
export type TemplateChoice = { readonly key: string } | { readonly key: undefined; readonly why: string };

/** What a template is made of on this host. */
export type TemplateSource = Omit<TemplateRequest, "key" | "prepare">;

/** The key of the template for this host, this program and this guest image. */
export function templateKeyFor({ guestImage, accelerator }: TemplateSource): string {
  return templateKey({ guestImageId: guestImage.id, accelerator, machine: machineFacts(accelerator) });
}

/** The template for this host; made now if there is none, by a process of its own that many may wait for. Whoever waits longer than the time boots cold. `tryAgain`: also soon after a failure. */
export async function ensureTemplate(source: TemplateSource, onProgress: (what: string) => void, options: WaitOptions & { readonly timeoutMs: number; readonly tryAgain?: boolean }): Promise<TemplateChoice> {
  const key = templateKeyFor(source);
  const { folders } = source;
  if (readTemplate(folders, key) !== undefined) return { key };
  const failure = options.tryAgain ? undefined : recentFailure(templatePaths(folders, key).makerLog);
  if (failure !== undefined) return { key: undefined, why: failure };
  return awaitMaker({ ...source, key }, onProgress, options);
}

/** Starts a template's maker and waits for the template, whoever makes it. */
export async function awaitMaker(request: TemplateRequest, onProgress: (what: string) => void, options: WaitOptions & { readonly timeoutMs: number }): Promise<TemplateChoice> {
  const { folders, key } = request;
  const { makerLog, makerLock } = templatePaths(folders, key);
  let over = false;
  await startMaker(request, () => { over = true; });
  try {
    return await eventually<TemplateChoice>("make a template", () => {
      if (readTemplate(folders, key) !== undefined) return { key };
      if (over && !isFlocked(makerLock)) return { key: undefined, why: recentFailure(makerLog) ?? "its maker ended without a word" };
      onProgress(`making a template for fast starts (once): ${progressOf(makerLog)}`);
      return undefined;
    }, { ...options, intervalMs: pollMs });
  } catch (error) {
    if (!RuntimeError.is(error, "deadline_exceeded")) throw error;
    return { key: undefined, why: `it is not made within ${options.timeoutMs / 1000} s` };
  }
}

/** Starts the maker, which goes on without us. It ends at once when another one is at work. */
export async function startMaker(request: TemplateRequest, onEnd: () => void = () => undefined): Promise<void> {
  const { makerLog, makerRequest, makerOutput } = templatePaths(request.folders, request.key);
  mkdirSync(dirname(makerLog), { recursive: true, mode: 0o700 });
  const output = openSync(makerOutput, "w", 0o600);
  try {
    writeFileAtomic(makerRequest, JSON.stringify(request));
    // Behind everything else the machine does, when nobody waits for it.
    const priority = request.prepare === undefined ? [] : ["nice", "-n", "10"];
    const [file = "", ...args] = [...priority, packageNode(), join(packageRoot(), "dist/template.js"), makerRequest];
    const maker = await startProcess(file, args, { stdio: ["ignore", output, output], cwd: "/", env: cleanEnvironment() });
    maker.child.unref();
    void maker.exited.then(onEnd); // never rejects
  } finally {
    closeSync(output);
  }
}

function progressOf(makerLog: string): string {
  return existsSync(makerLog) ? readFileSync(makerLog, "utf8").split("\n")[0] ?? "" : "starting";
}

function recentFailure(makerLog: string): string | undefined {
  if (!existsSync(makerLog) || Date.now() - statSync(makerLog).mtimeMs > retryAfterMs) return undefined;
  const text = readFileSync(makerLog, "utf8");
  return text.startsWith(failedPrefix) ? text.slice(failedPrefix.length) : undefined;
}
