import { RuntimeError } from "../../../shared/base/errors.ts";
import { cleanEnvironment, runProcess } from "../../../shared/linux/run-process.ts";

const loginTimeoutMs = 60_000;

/** Tries a password at a registry and keeps it where skopeo and podman do. @throws RuntimeError `unauthenticated` (reason `login_failed`). */
export async function logIn(registry: string, credentials: { readonly username: string; readonly password: string; readonly tlsVerify: boolean }): Promise<void> {
  const { username, password, tlsVerify } = credentials;
  try {
    await runProcess("skopeo", ["login", "--username", username, "--password-stdin", `--tls-verify=${tlsVerify}`, registry], { env: skopeoEnvironment(), input: password, timeoutMs: loginTimeoutMs });
  } catch (error) {
    if (error instanceof Error && /x509:|HTTP response to HTTPS client/.test(error.message)) throw new RuntimeError("unavailable", `log in to "${registry}"`, { cause: error, reason: "certificate_unknown", hint: "put its CA into /etc/containers/certs.d/REGISTRY/ca.crt, or log in with --tls-verify=false if you trust the way to it" });
    throw new RuntimeError("unauthenticated", `log in to "${registry}"`, { cause: error, reason: "login_failed", hint: "check the name, the password and the address of the registry" });
  }
}

/** Forgets the password. @throws RuntimeError `failed_precondition` (reason `login_failed`) when there is none. */
export async function logOut(registry: string): Promise<void> {
  try {
    await runProcess("skopeo", ["logout", registry], { env: skopeoEnvironment(), timeoutMs: loginTimeoutMs });
  } catch (error) {
    throw new RuntimeError("failed_precondition", `log out of "${registry}"`, { cause: error, reason: "login_failed" });
  }
}

/** skopeo's environment: where passwords are may be said by the variables podman and docker use. */
export function skopeoEnvironment(): NodeJS.ProcessEnv {
  return { ...cleanEnvironment(), REGISTRY_AUTH_FILE: process.env["REGISTRY_AUTH_FILE"], DOCKER_CONFIG: process.env["DOCKER_CONFIG"] };
}
