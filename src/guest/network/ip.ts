import { RuntimeError } from "../../shared/base/errors.ts";
import { runProcess } from "../../shared/linux/run-process.ts";

/** One netlink exchange; the rest is a cold start of the program under emulation. */
const ipTimeoutMs = 20_000;

/** Runs `ip -j` and returns the list it prints. */
export async function ipJson(args: readonly string[]): Promise<unknown[]> {
  const { stdout } = await runProcess("ip", ["-j", ...args], { timeoutMs: ipTimeoutMs });
  const text = stdout.toString().trim();
  const value: unknown = text === "" ? [] : JSON.parse(text); // an empty list is printed as nothing
  if (!Array.isArray(value)) throw new RuntimeError("internal", `ip ${args.join(" ")}: printed no list`);
  return value as unknown[];
}

/** Runs commands in one `ip` process; it stops at the first that fails. The caller has checked every word. */
export async function ipBatch(step: string, commands: readonly string[]): Promise<void> {
  if (commands.length === 0) return;
  try {
    await runProcess("ip", ["-batch", "-"], { input: `${commands.join("\n")}\n`, timeoutMs: ipTimeoutMs });
  } catch (error) {
    throw RuntimeError.wrap(error, step);
  }
}
