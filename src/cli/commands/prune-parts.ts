import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import { removeContainer } from "../../host/containers/end-container.ts";
import { ImageStore } from "../../host/storage/images/image-store.ts";
import { imageUsers } from "../../host/containers/image-users.ts";
import { ContainerStore, type ContainerRecord, isActive } from "../../host/store/container-store.ts";
import type { StateFolders } from "../../host/store/paths.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { fitsLabel, parseFilter } from "../format/filter.ts";
import { formatSize } from "../format/size.ts";
import { ask } from "../terminal/ask.ts";

/** Asks unless told not to. @throws RuntimeError `failed_precondition` (reason `no_terminal`) when nobody can answer. */
export async function confirmed(force: boolean | undefined, what: string): Promise<boolean> {
  if (force === true) return true;
  if (!process.stdin.isTTY) throw new RuntimeError("failed_precondition", "prune asks first, and nobody can answer", { reason: "no_terminal", hint: "add -f to remove without asking" });
  return /^y(es)?$/i.test(await ask(`This removes ${what}. Continue? [y/N] `, { hidden: false }));
}

/** Keys of `--filter`. */
const filterKeys = ["label"];

/** The option of all commands that prune. */
export function addFilterOption(command: Command): Command {
  return command.option("--filter <label=name>", "only what has this label: NAME or NAME=VALUE", collectLabel);
}

function collectLabel(text: string, before: readonly string[] | undefined): string[] {
  return [...(before ?? []), parseFilter(text, filterKeys).value];
}

/** Removes containers that do not run, and have all the labels. */
export async function pruneContainers(folders: StateFolders, labels: readonly string[] = []): Promise<ContainerRecord[]> {
  const store = new ContainerStore(folders);
  const ended = store.list().filter((record) => !isActive(readPresentStatus(store, record).status) && labels.every((label) => fitsLabel(record.labels, label)));
  for (const record of ended) await removeContainer(folders, record, { force: false });
  return ended;
}

/** Removes images that no container needs, and that have all the labels: those without a name, or all. */
export async function pruneImages(folders: StateFolders, all: boolean, labels: readonly string[] = []): Promise<{ readonly names: readonly string[]; readonly bytes: number }> {
  const images = new ImageStore(folders);
  const used = imageUsers(folders);
  const names: string[] = [];
  let bytes = 0;
  for (const image of images.list().filter(({ manifestDigest, names: own }) => !used.has(manifestDigest) && (all || own.length === 0)).filter((image) => labels.every((label) => fitsLabel(images.labelsOf(image), label)))) {
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
