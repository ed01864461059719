import { readFileSync, readdirSync } from "node:fs";
import { isErrnoException } from "../../shared/base/errors.ts";
import { identifyProcess, type ProcessIdentity } from "../../shared/linux/proc.ts";
import { cleanEnvironment, terminateProcess } from "../../shared/linux/run-process.ts";
import type { ResourceRecord } from "./ledger.ts";

/** Variable in a helper's environment that says whose it is, so that it is found even if we died before its pid was on disk. */
const tokenVariable = "CASEMATE_RESOURCE";

/** Ledger record of a helper process. */
export interface TaggedProcessRecord extends ResourceRecord {
  /** `SANDBOX/NAME`, in the environment of the process and its children. */
  readonly token: string;
  /** Undefined until the process runs. */
  readonly identity: ProcessIdentity | undefined;
}

/** The environment a helper with that token is started with. */
export function taggedEnvironment(token: string): NodeJS.ProcessEnv {
  return { ...cleanEnvironment(), [tokenVariable]: token };
}

/** Ends the recorded process and every other one that carries its token; none at all is success. */
export async function endTaggedProcesses(record: TaggedProcessRecord, graceMs: number): Promise<void> {
  if (record.identity !== undefined) await terminateProcess(record.identity, graceMs);
  for (const identity of findTaggedProcesses(record.token)) await terminateProcess(identity, graceMs);
}

/** Processes with that token. Those of other users are not seen without root. */
export function findTaggedProcesses(token: string): ProcessIdentity[] {
  const wanted = `${tokenVariable}=${token}`;
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((name) => {
    const pid = Number(name);
    if (!readEnvironment(pid).includes(wanted)) return [];
    // Looked at again after its identity was taken: should the pid change hands later, the start time no longer fits and nothing is signalled.
    const identity = identifyProcess(pid);
    return identity !== undefined && readEnvironment(pid).includes(wanted) ? [identity] : [];
  });
}

function readEnvironment(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, "latin1").split("\0");
  } catch (error) {
    if (["ENOENT", "ESRCH", "EACCES", "EPERM"].some((code) => isErrnoException(error, code))) return [];
    throw error;
  }
}
