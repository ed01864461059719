import type { Command } from "commander";
import { stateFolders, type StateFolders } from "../host/store/paths.ts";

/** One command: says its arguments and options, and what to do. */
export interface CommandModule {
  define(command: Command): void;
}

/** Options of the program itself, which every command may be asked for. */
export interface GlobalOptions {
  readonly root?: string;
  readonly debug?: boolean;
}

/** The program's own options, seen from one of its commands or their subcommands. */
export function globalOptions(command: Command): GlobalOptions {
  let program = command;
  while (program.parent !== null) program = program.parent;
  return program.opts<GlobalOptions>();
}

/** Where state is for this call. */
export function foldersOf(command: Command): StateFolders {
  return stateFolders(globalOptions(command).root);
}

/** Collects an option that may be given several times. */
export function collect(value: string, before: readonly string[] | undefined): string[] {
  return [...before ?? [], value];
}
