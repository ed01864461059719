import type { Command } from "commander";
import { logOut } from "../../host/storage/images/registry-login.ts";

export function define(command: Command): void {
  command
    .argument("[registry]", "registry to forget the password of", "docker.io")
    .addHelpText("after", "\nExample:\n  casemate logout registry.example.com")
    .action(async (registry: string) => {
      await logOut(registry);
      process.stdout.write(`Removing login credentials for ${registry}\n`);
    });
}
