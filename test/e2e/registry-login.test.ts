// A registry with a certificate of its own CA and a password, as a company has it. No VM.
// - without the CA, and without the password, pull says what to do; so does login
// - login keeps the password where skopeo and podman look, logout forgets it
// - plain HTTP and a certificate that nobody knows only when asked for
import assert from "node:assert/strict";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { useCasemate } from "../support/cli.ts";
import { compress, writeOciLayout } from "../support/image-fixture.ts";
import { tarBytes } from "../support/memory-archive.ts";
import { Registry } from "../support/registry.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root", "docker-registry");
const timeoutMs = 60_000;
/** User "me" with the password "secret". */
const htpasswd = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
/** Leads to this machine like 127.0.0.1, but not by a name that needs no certificate. */
const host = "0.0.0.0";
let folder: string, registry: Registry, plain: Registry, image: string, env: NodeJS.ProcessEnv;

after(async () => {
  if (skip !== false) return;
  for (const one of [registry, plain]) await one[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
}, { timeout: timeoutMs });
const casemate = useCasemate();

before(async () => {
  if (skip !== false) return;
  folder = mkdtempSync("/tmp/cm-login-");
  const tls = { certificate: join(folder, "ca.crt"), key: join(folder, "ca.key") };
  await runProcess("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", tls.key, "-out", tls.certificate, "-days", "2", "-subj", "/CN=test", "-addext", `subjectAltName=IP:${host}`]);
  registry = await Registry.start({ host, tls, htpasswd });
  plain = await Registry.start({ host });
  image = `${registry.address}/test/private:v1`;
  env = { REGISTRY_AUTH_FILE: join(folder, "auth.json"), SSL_CERT_FILE: join(folder, "trusted.crt") };
  writeOciLayout(join(folder, "layout"), [compress.gzip(tarBytes([{ path: "hello", type: "file", content: "hello" }]))], { Cmd: ["/hello"] });
  const push = ["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", `oci:${join(folder, "layout")}:image`];
  await runProcess("skopeo", [...push, "--dest-creds", "me:secret", `docker://${image}`], { timeoutMs });
  await runProcess("skopeo", [...push, `docker://${plain.address}/test/plain:v1`], { timeoutMs });
}, { timeout: timeoutMs });

const fails = async (args: readonly string[], message: RegExp, input?: string): Promise<void> => {
  const { code, stderr } = await casemate.run(args, { timeoutMs, env, ...(input !== undefined && { input }) });
  assert.equal(code, 125, args.join(" "));
  assert.match(stderr, message);
};
const logIn = ["login", "-u", "me", "--password-stdin"];

test("a certificate that nobody knows, and plain HTTP, are refused unless asked for", { skip, timeout: timeoutMs }, async () => {
  await fails(["pull", image], /hint: put its CA into \/etc\/containers\/certs\.d\/REGISTRY\/ca\.crt, or pull with --tls-verify=false/);
  await fails([...logIn, registry.address], /hint: put its CA into/, "secret\n");
  const open = `${plain.address}/test/plain:v1`;
  await fails(["pull", open], /hint: put its CA into/);
  assert.equal(await casemate.ok(["pull", "--tls-verify=false", open], { env }), open);
  await casemate.ok(["rmi", open]);
});

test("login keeps the password where skopeo looks, pull uses it, logout forgets it", { skip, timeout: timeoutMs }, async () => {
  copyFileSync(join(folder, "ca.crt"), join(folder, "trusted.crt"));
  await fails(["pull", image], /hint: check the name, or log in with `casemate login REGISTRY`/);
  await fails([...logIn, registry.address], /log in to .*\nhint: check the name, the password/, "wrong\n");
  assert.equal(existsSync(join(folder, "auth.json")), false, "a wrong password is not kept");
  assert.equal(await casemate.ok([...logIn, registry.address], { env, input: "secret\n" }), "Login Succeeded");
  const { auths } = JSON.parse(readFileSync(join(folder, "auth.json"), "utf8")) as { readonly auths: Readonly<Record<string, unknown>> }; // containers-auth.json(5)
  assert.deepEqual(Object.keys(auths), [registry.address]);
  assert.equal(await casemate.ok(["pull", image], { env }), image);
  await casemate.ok(["rmi", image]);
  await runProcess("skopeo", ["inspect", "--raw", `docker://${image}`], { timeoutMs, env: { ...process.env, ...env } });
  await casemate.ok(["logout", registry.address], { env });
  await fails(["pull", image], /log in with `casemate login/);
  await fails(["logout", registry.address], /log out of/);
});
