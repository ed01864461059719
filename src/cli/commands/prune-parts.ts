import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import { removeContainer } from "../../host/containers/end-container.ts";
import { ImageStore } from "../../host/storage/images/image-store.ts";
import { imageUsers } from "../../host/containers/image-users.ts";
import { ContainerStore, type ContainerRecord, isActive } from "../../host/store/container-store.ts";
import type { StateFolders } from "../../host/store/paths.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { collect } from "../command.ts";
import { fitsLabel, parseFilter } from "../format/filter.ts";
import { formatSize } from "../format/size.ts";
import { parseMoment } from "../format/time.ts";
import { ask } from "../terminal/ask.ts";

/** Asks unless told not to. @throws RuntimeError `failed_precondition` (reason `no_terminal`) when nobody can answer. */
export async function confirmed(force: boolean | undefined, what: string): Promise<boolean> {
  if (force === true) return true;
  if (!process.stdin.isTTY) throw new RuntimeError("failed_precondition", "prune asks first, and nobody can answer", { reason: "no_terminal", hint: "add -f to remove without asking" });
  return /^y(es)?$/i.test(await ask(`This removes ${what}. Continue? [y/N] `, { hidden: false }));
}

/** What `--filter` leaves to be removed. */
export interface PruneFilter {
  /** Made before that, in milliseconds since 1970. */
  readonly beforeUnixMs: number;
  /** `NAME` or `NAME=VALUE`: all of them. */
  readonly labels: readonly string[];
  /** None of these. */
  readonly notLabels: readonly string[];
}

/** The option of all commands that prune. */
export function addFilterOption(command: Command): Command {
  return command.option("--filter <key=value>", "only what was made before: until=24h or until=2026-01-31; what has a label or has it not: label=NAME[=VALUE], label!=NAME", collect);
}

/** @throws RuntimeError `invalid_argument` (reasons `bad_filter`, `bad_time`). */
export function parsePruneFilter(texts: readonly string[] = [], nowMs = Date.now()): PruneFilter {
  const filters = texts.map((text) => parseFilter(text, ["until", "label", "label!"]));
  const valuesOf = (wanted: string): string[] => filters.filter(({ key }) => key === wanted).map(({ value }) => value);
  return { beforeUnixMs: Math.min(...valuesOf("until").map((text) => parseMoment(text, "--filter until", nowMs)), Infinity), labels: valuesOf("label"), notLabels: valuesOf("label!") };
}

/** Whether something made then, with these labels, is to be removed. */
export function isPruned({ beforeUnixMs, labels, notLabels }: PruneFilter, createdAtUnixMs: number, own: Readonly<Record<string, string>>): boolean {
  return createdAtUnixMs < beforeUnixMs && labels.every((label) => fitsLabel(own, label)) && !notLabels.some((label) => fitsLabel(own, label));
}

/** Removes containers that do not run, and that the filter leaves. */
export async function pruneContainers(folders: StateFolders, filter: PruneFilter): Promise<ContainerRecord[]> {
  const store = new ContainerStore(folders);
  const ended = store.list().filter((record) => !isActive(readPresentStatus(store, record).status) && isPruned(filter, record.createdAtUnixMs, record.labels));
  for (const record of ended) await removeContainer(folders, record, { force: false });
  return ended;
}

/** Removes images that no container needs, and that the filter leaves: those without a name, or all. */
export async function pruneImages(folders: StateFolders, all: boolean, filter: PruneFilter): Promise<{ readonly names: readonly string[]; readonly bytes: number }> {
  const images = new ImageStore(folders);
  const used = imageUsers(folders);
  const names: string[] = [];
  let bytes = 0;
  const unused = images.list().filter(({ manifestDigest, names: own }) => !used.has(manifestDigest) && (all || own.length === 0));
  for (const image of unused.filter((one) => isPruned(filter, one.created === "" ? 0 : Date.parse(one.created), images.labelsOf(one)))) {
    const { untagged, deleted } = await images.remove(image.id, { force: true, usedBy: () => [] });
    names.push(...untagged);
    if (deleted !== undefined) bytes += image.sizeBytes;
  }
  return { names, bytes };
}

/** What was removed, as docker lists it. */
export function describePruned(containers: readonly ContainerRecord[], images: { readonly names: readonly string[]; readonly bytes: number }): string {
  return [
    containers.length === 0 ? "" : `Deleted Containers:\n${containers.map(({ containerId }) => `${containerId}\n`).join("")}\n`,
    images.names.length === 0 ? "" : `Deleted Images:\n${images.names.map((name) => `untagged: ${name}\n`).join("")}\n`,
    `Total reclaimed space: ${formatSize(images.bytes)}\n`,
  ].join("");
}
