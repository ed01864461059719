import type { WaitOptions } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { made, type Step } from "../../shared/base/steps.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { ShareSpec, VirtualMachine } from "../hypervisor/virtual-machine.ts";
import type { SandboxShares } from "./drivers.ts";

/** What showing host folders to a guest, and taking them away again, works on. */
export interface ShareBuild {
  readonly vm: VirtualMachine;
  readonly connection: AgentClient;
  /** Undefined: the sandbox was made without. */
  readonly shares: SandboxShares | undefined;
  shareDevice: ShareSpec | undefined;
  readonly undo: UndoStack;
}

/** Can be done while there is no VM. */
export const startVirtiofsd: Step<Pick<ShareBuild, "shares" | "shareDevice" | "undo">> = {
  name: "start virtiofsd", when: ({ shares }) => shares !== undefined, run: async (build) => { build.shareDevice = await made(build.shares).serve(build.undo); },
};

const shown = ({ shareDevice }: ShareBuild): boolean => shareDevice !== undefined;
export const plugShare: Step<ShareBuild> = { name: "plug share", when: shown, run: ({ vm, shareDevice }, wait) => vm.plugShare(made(shareDevice), wait) };
export const mountShare: Step<ShareBuild> = { name: "mount share", when: shown, run: ({ connection, shares, shareDevice }, wait) => connection.guest.addStorages({ storages: [{ driver: "virtio-fs", source: made(shareDevice).tag, fstype: "virtiofs", mountPoint: made(shares).guestMountPoint }] }, wait) };

/** How a guest comes to see the shared folder. */
export const serveSharesSteps: readonly Step<ShareBuild>[] = [startVirtiofsd, plugShare, mountShare];

/** How it is taken from a guest in which no container uses it any more, so that the guest can be saved. Each is done already as often as not. */
export const withdrawSharesSteps: readonly Step<ShareBuild>[] = [
  { name: "unmount share", run: unmountShare },
  { name: "unplug share", run: unplugShare },
  { name: "end virtiofsd", run: ({ shares }) => made(shares).withdraw() },
];

/** The same as an undo; a VM that is gone has nothing to be taken from. */
export async function withdrawShares(build: ShareBuild, wait: WaitOptions): Promise<void> {
  await unmountShare(build, wait).catch((error: unknown) => { if (!RuntimeError.is(error, "unavailable")) throw error; });
  await unplugShare(build, wait);
  await made(build.shares).withdraw();
}

function unmountShare({ connection, shares }: ShareBuild, wait: WaitOptions): Promise<unknown> {
  made(shares).serving = false; // without its device virtiofsd ends by itself
  return connection.guest.removeStorages({ mountPoints: [made(shares).guestMountPoint] }, wait);
}

function unplugShare({ vm, shares }: ShareBuild, wait: WaitOptions): Promise<void> {
  return vm.unplug(made(shares).shareId, wait);
}
