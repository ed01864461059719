import { create } from "@bufbuild/protobuf";
import type { Command } from "commander";
import { constants } from "node:os";
import { kernelRandomBytes } from "../../shared/linux/random.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { OciProcess } from "../../shared/oci/runtime-spec.ts";
import { ExecSpecSchema, type ExecSpec } from "../../shared/protocol/gen/owner_pb.ts";
import { buildExecProcess, buildVmProcess } from "../../host/containers/build-spec.ts";
import { resolveEnv } from "../../host/containers/container-options.ts";
import { requireRunning } from "../../host/containers/end-container.ts";
import { namingPaused } from "../../host/containers/pause-container.ts";
import { connectOwner, type OwnerClient } from "../../host/control/owner-client.ts";
import { doneBefore } from "../../host/control/repeated-calls.ts";
import { ContainerStore, type ContainerRecord, processUser } from "../../host/store/container-store.ts";
import { collect, foldersOf, globalOptions } from "../command.ts";
import { exitWith, reportError, startFailureExitCode } from "../exit.ts";
import { parseDetachKeys } from "../terminal/detach-keys.ts";
import { requireTerminal, runSession, sessionExitCode, terminalSize } from "../terminal/session.ts";
import { parseSeconds } from "../format/time.ts";
import { toWorkingDir } from "./run-options.ts";
import { readLines } from "./run-settings.ts";

interface Flags {
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly detach?: boolean;
  readonly env?: readonly string[];
  readonly workdir?: string;
  readonly user?: string;
  readonly privileged?: boolean;
  readonly vm?: boolean;
  readonly detachKeys?: string;
  readonly envFile?: readonly string[];
  readonly timeout?: string;
}

export function define(command: Command): void {
  command
    .argument("<container>", "name or id")
    .argument("[command...]", "command and arguments; with --vm default: a shell")
    .passThroughOptions()
    .option("-i, --interactive", "keep standard input open")
    .option("-t, --tty", "give the command a terminal")
    .option("-d, --detach", "do not wait for the command")
    .option("-e, --env <name=value>", "set an environment variable", collect)
    .option("--env-file <file>", "set environment variables from a file of NAME=value lines", collect)
    .option("-w, --workdir <dir>", "working directory; default: the container's")
    .option("-u, --user <user[:group]>", "user by name or number; default: the container's")
    .option("--privileged", "give the command all rights in the guest")
    .option("--vm", "run in the guest itself, as its root, outside the container")
    .option("--detach-keys <keys>", "keys that leave a terminal; default: ctrl-p,ctrl-q")
    .option("--timeout <seconds>", "end the command, and all it has started, after that time")
    .addHelpText("after", "\nExamples:\n  casemate exec -it web sh\n  casemate exec -u nobody -w /tmp web id\n  casemate exec --vm -it web        a root shell in the guest")
    .action(exec);
}

async function exec(name: string, args: readonly string[], flags: Flags, command: Command): Promise<void> {
  const folders = foldersOf(command);
  const limitMs = flags.timeout === undefined ? undefined : parseSeconds(flags.timeout, "--timeout");
  if (limitMs !== undefined && (flags.detach === true || flags.vm === true)) throw new RuntimeError("invalid_argument", "--timeout goes with neither -d nor --vm: nobody would be there to keep it", { reason: "bad_option" });
  const terminal = flags.tty ?? false, stdin = flags.interactive ?? false, detach = flags.detach ?? false;
  if (!detach) requireTerminal({ tty: terminal, interactive: stdin });
  if (args.length === 0 && flags.vm !== true) throw new RuntimeError("invalid_argument", "exec needs a command", { reason: "no_command", hint: `for example casemate exec -it ${name} sh` });
  const record = new ContainerStore(folders).find(name);
  requireRunning(folders, record, "exec in");
  const process = execProcess(record, args, flags);
  const size = detach ? undefined : terminalSize();
  const spec = create(ExecSpecSchema, {
    processJson: Buffer.from(JSON.stringify(process)),
    user: flags.user ?? (flags.vm === true ? "" : processUser(record)),
    stdin: stdin && !detach,
    holdOutput: !detach,
    autoRemove: true,
    ownCgroup: limitMs !== undefined,
    ...(size && { terminalSize: { ...size } }),
  });
  const client = await connectOwner(folders, record.sandboxId);
  let code: number;
  try {
    code = await namingPaused(folders, record, "exec in", () => runExec(client, flags.vm === true ? "" : record.containerId, spec, { terminal, stdin, detach, keys: flags.detachKeys, limitMs }));
  } catch (error) {
    reportError(error, globalOptions(command).debug ?? false);
    code = startFailureExitCode(error);
  } finally {
    client.close();
  }
  await exitWith(code);
}

function execProcess(record: ContainerRecord, args: readonly string[], flags: Flags): OciProcess {
  const options = { args, env: resolveEnv([...readLines(flags.envFile ?? [], "--env-file"), ...flags.env ?? []], process.env), terminal: flags.tty ?? false, privileged: flags.privileged ?? false, workingDir: flags.workdir === undefined ? undefined : toWorkingDir(flags.workdir) };
  return flags.vm === true ? buildVmProcess(options) : buildExecProcess(record, options);
}

async function runExec(client: OwnerClient, containerId: string, spec: ExecSpec, options: { readonly terminal: boolean; readonly stdin: boolean; readonly detach: boolean; readonly keys: string | undefined; readonly limitMs: number | undefined }): Promise<number> {
  const { terminal, stdin, detach, keys, limitMs } = options;
  const execId = kernelRandomBytes(8).toString("hex");
  // It runs at once; its output and its end wait for us (hold_output).
  const started = client.call(async ({ owner }) => { await owner.exec({ containerId, execId, terminal, spec }); }, doneBefore.create);
  if (detach) {
    await started;
    return 0;
  }
  started.catch(() => undefined); // the session reports it, or we do below
  const limit = limitMs === undefined ? undefined : setTimeout(() => {
    // It may have ended in the meantime.
    client.task.kill({ id: containerId, execId, signal: constants.signals.SIGKILL, all: true }).catch(() => undefined);
  }, limitMs);
  const session = async (): Promise<number> => sessionExitCode(await runSession(client, {
    containerId, execId, terminal, stdin, forwardSignals: true, start: () => started,
    ...(keys !== undefined && { detachKeys: parseDetachKeys(keys) }),
  }));
  try {
    return await session();
  } catch (error) {
    await started; // when there is nothing to attach to, its failure says why
    if (!RuntimeError.is(error, "not_found")) throw error;
    return await session(); // a new owner was asked for the attachment first
  } finally {
    clearTimeout(limit);
  }
}
