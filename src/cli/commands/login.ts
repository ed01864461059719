import { Option, type Command } from "commander";
import { text } from "node:stream/consumers";
import { RuntimeError } from "../../shared/base/errors.ts";
import { logIn } from "../../host/storage/images/registry-login.ts";
import { ask } from "../terminal/ask.ts";

interface Flags {
  readonly username?: string;
  readonly password?: string;
  readonly passwordStdin?: boolean;
  readonly tlsVerify: string;
}

export function define(command: Command): void {
  command
    .argument("[registry]", "registry to log in to", "docker.io")
    .option("-u, --username <name>", "your name there; default: asked for")
    .option("-p, --password <password>", "your password; other users of this machine can see it: better --password-stdin")
    .option("--password-stdin", "read the password from standard input")
    .addOption(new Option("--tls-verify <yes>", "false: also a registry without a certificate that this machine trusts").choices(["true", "false"]).default("true"))
    .addHelpText("after", "\nThe password is kept where skopeo and podman keep theirs ($REGISTRY_AUTH_FILE, or auth.json).\n\nExample:\n  casemate login -u me --password-stdin registry.example.org <password.txt")
    .action(async (registry: string, flags: Flags) => {
      if (flags.passwordStdin === true && flags.username === undefined) throw new RuntimeError("invalid_argument", "--password-stdin needs --username", { reason: "bad_option" });
      const username = flags.username ?? await ask("Username: ", { hidden: false });
      const password = flags.passwordStdin === true ? (await text(process.stdin)).replace(/\r?\n$/, "") : flags.password ?? await ask("Password: ", { hidden: true });
      await logIn(registry, { username, password, tlsVerify: flags.tlsVerify !== "false" });
      process.stdout.write("Login Succeeded\n");
    });
}
