import { type RunOptions, type RunResult, cleanEnvironment, runProcess } from "../../src/shared/linux/run-process.ts";

/** What a machine's own settings say of npm's registry and of whom to trust. */
const kept = /^(npm_config_(userconfig|globalconfig|registry|cafile)|NODE_EXTRA_CA_CERTS)$/i;

/** Runs npm as a user of this machine would. */
export async function npm(args: readonly string[], options: Omit<RunOptions, "env">): Promise<RunResult> {
  const settings = Object.fromEntries(Object.entries(process.env).filter(([name]) => kept.test(name)));
  return runProcess("npm", args, { ...options, env: { ...cleanEnvironment(), ...settings } });
}
