import { join } from "node:path";
import { RuntimeError } from "../../../shared/base/errors.ts";
import type { UndoStack } from "../../../shared/base/undo.ts";
import type { ProcessExit } from "../../../shared/linux/run-process.ts";
import type { ShareSpec } from "../../hypervisor/virtual-machine.ts";
import type { Ledger, PlannedResource, ResourceRecord } from "../../store/ledger.ts";
import { isRootful } from "../../store/paths.ts";
import { isShareMount, planShareMount, shareFolderKind, shareMountKind, type ShareFolders } from "./share-mount.ts";
import { adoptVirtiofsd, findVirtiofsdRecord, virtiofsdKind } from "./virtiofsd.ts";
import type { VirtiofsdProgram } from "./virtiofsd-args.ts";

/** Where the guest mounts the share. */
export const guestSharePath = "/run/casemate/shares";
/** Tag of the share's device. */
const shareTag = "casemate";

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
  readonly shareId = "share0";
  readonly guestMountPoint = guestSharePath;
  serving = false;
  readonly #request: SharesRequest;
  readonly #folders: ShareFolders;
  readonly #ledger: Ledger;
  readonly #mounts = new Map<string, Pick<PlannedResource<void>, "release">>();
  readonly #lost = Promise.withResolvers<void>();
  /** The end of the present virtiofsd. */
  #exited: Promise<ProcessExit> | undefined;

  /** Nothing is done before {@link serve}. */
  constructor(request: SharesRequest, ledger: Ledger) {
    this.#request = request;
    this.#folders = shareFolders(request.sharePath);
    this.#ledger = ledger;
  }

  /**
   * Takes over the shares of an owner that has died: virtiofsd goes on, and what is mounted is in the ledger. Without
   * any mount nobody relies on it, and that owner may have died while it took the folder away, or showed it.
   */
  static adopt(request: SharesRequest, ledger: Ledger): FolderShares {
    const shares = new FolderShares(request, ledger);
    for (const record of ledger.records) if (isShareMount(record)) shares.#mounts.set(record.name, ledger.held(shareMountKind, record));
    if (shares.#mounts.size > 0) shares.#rely(adoptVirtiofsd(ledger));
    return shares;
  }

  /** Resolves when virtiofsd has ended while it was relied on; the guest's shares then answer no more. Never rejects. */
  get lost(): Promise<void> {
    return this.#lost.promise;
  }

  /** Makes the folder, the first time, and starts virtiofsd on it. @throws RuntimeError `unimplemented` (reason `needs_root`) without root. */
  async serve(undo: UndoStack): Promise<ShareSpec> {
    if (!isRootful()) throw new RuntimeError("unimplemented", "share host folders: only root can bind-mount them and serve them with their owners", { reason: "needs_root", hint: "run casemate as root to use -v, or copy the files with casemate cp" });
    const ledger = this.#ledger;
    const isMade = ledger.records.some((record) => record.kind === shareFolderKind.kind && !ledger.isReserved(record));
    const planned = ledger.plan((plan) => ({ folder: isMade ? undefined : plan(shareFolderKind, this.#folders), virtiofsd: plan(virtiofsdKind, this.#request) }));
    await planned.folder?.take(undo);
    const { fd, process } = await planned.virtiofsd.take(undo);
    this.#rely(process.exited);
    return { shareId: this.shareId, tag: shareTag, fd };
  }

  /** Ends virtiofsd, whoever has started it. */
  async withdraw(): Promise<void> {
    this.serving = false;
    const record = findVirtiofsdRecord(this.#ledger);
    if (record !== undefined) await this.#ledger.held(virtiofsdKind, record).release();
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

  #rely(exited: Promise<ProcessExit>): void {
    this.#exited = exited;
    this.serving = true;
    void exited.then(() => { if (this.serving && this.#exited === exited) this.#lost.resolve(); }); // never rejects
  }
}
