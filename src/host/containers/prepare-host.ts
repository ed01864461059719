import { ensureGuestImage } from "../guest-image/guest-image.ts";
import { chooseAccelerator } from "../assemble.ts";
import type { StateFolders } from "../store/paths.ts";
import type { HostSetup } from "./start-container.ts";

/** Makes sure of what every start needs: the guest image, and the accelerator this host can really use. */
export async function prepareHost(folders: StateFolders, options: { readonly debug: boolean; readonly onProgress: (what: string) => void }): Promise<{ readonly setup: HostSetup; readonly note: string | undefined }> {
  const guestImage = await ensureGuestImage(folders, { onProgress: options.onProgress });
  const { accelerator, explanation } = await chooseAccelerator(folders, guestImage, options.onProgress);
  return {
    setup: { folders, guestImage, accelerator, debug: options.debug },
    note: accelerator === "kvm" ? undefined : `running under emulation (TCG), which is slow: ${explanation}`,
  };
}
