import { join } from "node:path";
import { RuntimeError } from "../../../shared/base/errors.ts";
import type { UndoStack } from "../../../shared/base/undo.ts";
import type { ProcessExit } from "../../../shared/linux/run-process.ts";
import type { Ledger, PlannedResource, ResourceRecord } from "../../store/ledger.ts";
import { isRootful } from "../../store/paths.ts";
import { isShareMount, planShareMount, shareFolderKind, shareMountKind, type ShareFolders } from "./share-mount.ts";
import { adoptVirtiofsd, virtiofsdKind } from "./virtiofsd.ts";
import type { VirtiofsdProgram } from "./virtiofsd-args.ts";

/** Where the guest mounts the share. */
export const guestSharePath = "/run/casemate/shares";
/** Tag of the share's device. */
const shareTag = "casemate";

/** The device is plugged already: QEMU has the descriptor. */
const noFd = -1;

/** What a sandbox's shares are made from. */
export interface SharesRequest {
  readonly sandboxId: string;
  /** The sandbox's run folder. */
  readonly sandboxFolder: string;
  /** The folder to serve, in the run folder. */
  readonly sharePath: string;
  /** Default: the first virtiofsd that is installed. */
  readonly program?: VirtiofsdProgram;
}

/** The folder that is served, and the one behind it. */
export function shareFolders(sharePath: string): ShareFolders {
  return { sharePath, backingPath: `${sharePath}-points` };
}

/** The sandbox's one shared folder; every volume is a mount below it. */
export class FolderShares {
  /** The device to plug; its descriptor is closed by the undo. */
  readonly device: { readonly shareId: string; readonly tag: string; readonly fd: number };
  readonly guestMountPoint = guestSharePath;
  /** Resolves when virtiofsd has ended; the guest's shares then answer no more. Never rejects. */
  readonly exited: Promise<ProcessExit>;
  readonly #folders: ShareFolders;
  readonly #ledger: Ledger;
  readonly #mounts = new Map<string, Pick<PlannedResource<void>, "release">>();

  private constructor(folders: ShareFolders, ledger: Ledger, fd: number, exited: Promise<ProcessExit>) {
    this.#folders = folders;
    this.#ledger = ledger;
    this.device = { shareId: "share0", tag: shareTag, fd };
    this.exited = exited;
  }

  /** Makes the shared folder and starts virtiofsd on it. @throws RuntimeError `unimplemented` (reason `needs_root`) without root. */
  static async start(request: SharesRequest, ledger: Ledger, undo: UndoStack): Promise<FolderShares> {
    if (!isRootful()) throw new RuntimeError("unimplemented", "share host folders: only root can bind-mount them and serve them with their owners", { reason: "needs_root", hint: "run casemate as root to use -v, or copy the files with casemate cp" });
    const folders = shareFolders(request.sharePath);
    const planned = ledger.plan((plan) => ({ folder: plan(shareFolderKind, folders), virtiofsd: plan(virtiofsdKind, request) }));
    await planned.folder.take(undo);
    const { fd, process } = await planned.virtiofsd.take(undo);
    return new FolderShares(folders, ledger, fd, process.exited);
  }

  /** Takes over the shares of an owner that has died: virtiofsd goes on, and what is mounted is in the ledger. */
  static adopt(request: SharesRequest, ledger: Ledger): FolderShares {
    const shares = new FolderShares(shareFolders(request.sharePath), ledger, noFd, adoptVirtiofsd(ledger));
    for (const record of ledger.records) if (isShareMount(record)) shares.#mounts.set(record.name, ledger.held(shareMountKind, record));
    return shares;
  }

  /** The ledger's record of what {@link add} makes. */
  plan(name: string): ResourceRecord {
    return planShareMount({ ...this.#folders, name });
  }

  /**
   * Makes a host folder or file visible; the result is its path in the guest.
   * @throws RuntimeError `not_found` without such a source; `failed_precondition` (reason `bad_source`) for what is neither folder nor file.
   */
  async add(name: string, source: string, readOnly: boolean, undo: UndoStack): Promise<string> {
    const mount = this.#ledger.plan((plan) => plan(shareMountKind, { ...this.#folders, name, source, readOnly }));
    this.#mounts.set(name, mount);
    await mount.take(undo);
    return join(this.guestMountPoint, name);
  }

  /** Takes a folder back; "not there" is success. The guest must not use it any more. */
  async remove(name: string): Promise<void> {
    const mount = this.#mounts.get(name);
    if (mount === undefined) return;
    await mount.release();
    this.#mounts.delete(name);
  }
}
