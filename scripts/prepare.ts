// prepare.ts: makes what every run needs, so that the first container does not wait for it. Does
// nothing that is still valid.
import { ensureGuestImage } from "../src/host/guest-image/guest-image.ts";
import { prepareHost } from "../src/host/containers/prepare-host.ts";
import { stateFolders } from "../src/host/store/paths.ts";

const folders = stateFolders(undefined);
let last = "";
const onProgress = (what: string): void => {
  if (what !== last) console.log(what);
  last = what;
};
const image = await ensureGuestImage(folders, { onProgress });
console.log(`guest image ${image.id} with Linux ${image.kernelRelease}`);

const { setup, notes } = await prepareHost(folders, { debug: false, coldBoot: false, tryAgain: true, onProgress });
for (const note of notes) console.log(note);
console.log(setup.template === undefined ? "no template" : `template ${setup.template}`);
