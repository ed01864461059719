/**
 * Runs what is not trusted in virtual machines of its own.
 *
 * @example
 * import { Sandbox } from "casemate";
 *
 * await using sandbox = await Sandbox.create({ image: "busybox" });
 * console.log((await sandbox.run("uname -r")).stdout);
 *
 * @packageDocumentation
 */
export { Sandbox, type SandboxEvent } from "./library/sandbox.ts";
export { SandboxProcess } from "./library/sandbox-process.ts";
export { ProcessOutput } from "./library/process-output.ts";
export { SandboxFiles, type FileChange, type FileContent, type FileEntry, type FileStat, type FileWriteOptions } from "./library/files.ts";
export type { CallOptions, CloneOptions, Command, LoadOptions, PlaceOptions, RunOptions, SandboxOptions, SpawnOptions } from "./library/options.ts";
export { RunError, type ProcessExit, type RunResult } from "./library/run-result.ts";
export type { SandboxInfo } from "./library/sandbox-info.ts";
export type { SnapshotInfo } from "./library/snapshots.ts";
export type { HostProcessStats, NetworkStats, SandboxStats } from "./library/stats.ts";
export type { LogEntry } from "./library/logs.ts";
export { RuntimeError, type ErrorCode, type ErrorDetails } from "./shared/base/errors.ts";
