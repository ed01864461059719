// pull-image.ts DATA_FOLDER REFERENCE: pulls an image and makes its root file system, as a process of its own. Prints the root image's path.
import { join } from "node:path";
import { ImageStore } from "../../src/host/storage/images/image-store.ts";
import { pullImage } from "../../src/host/storage/images/pull.ts";

const [folder = "", reference = ""] = process.argv.slice(2);
const folders = { data: folder, run: join(folder, "run") };
const image = await new ImageStore(folders).open(await pullImage(folders, reference));
process.stdout.write(`${image.rootfs.path}\n`);
