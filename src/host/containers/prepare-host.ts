import { ensureGuestImage } from "../guest-image/guest-image.ts";
import { chooseAccelerator } from "../assemble.ts";
import { ensureTemplate } from "./ensure-template.ts";
import { defaultStartTimeoutMs } from "../sandbox/sandbox-config.ts";
import type { StateFolders } from "../store/paths.ts";
import type { HostSetup } from "./start-container.ts";

/** How {@link prepareHost} goes about it. */
export interface PrepareOptions {
  /** Longest start of a sandbox; whoever makes its template waits no longer either. Default {@link defaultStartTimeoutMs}. */
  readonly startTimeoutMs?: number;
  readonly debug: boolean;
  /** See {@link HostSetup.timings}. */
  readonly timings?: boolean;
  /** Boot cold: no template is looked for or made. */
  readonly coldBoot: boolean;
  /** A template that could not be made lately is tried again. Default: not for ten minutes, so that not every start waits for it. */
  readonly tryAgain?: boolean;
  readonly onProgress: (what: string) => void;
}

/** Makes sure of what every start needs: the guest image, the accelerator this host can really use, and the template to start from. */
export async function prepareHost(folders: StateFolders, options: PrepareOptions): Promise<{ readonly setup: HostSetup; readonly notes: readonly string[] }> {
  const { startTimeoutMs = defaultStartTimeoutMs } = options;
  const guestImage = await ensureGuestImage(folders, { onProgress: options.onProgress });
  const { accelerator, explanation } = await chooseAccelerator(folders, guestImage, options.onProgress);
  const template = options.coldBoot ? undefined : await ensureTemplate({ folders, guestImage, accelerator }, options.onProgress, { timeoutMs: startTimeoutMs, tryAgain: options.tryAgain === true });
  return {
    setup: { folders, guestImage, accelerator, template: template?.key, startTimeoutMs, debug: options.debug, timings: options.timings ?? false },
    notes: [
      ...(accelerator === "kvm" ? [] : [`running under emulation (TCG), which is slow: ${explanation}`]),
      ...(template === undefined || template.key !== undefined ? [] : [`booting cold, there is no template: ${template.why}`]),
    ],
  };
}
