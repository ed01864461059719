import { storedFile } from "./support/bare-guest.ts";
import { libraryFilesBench } from "./support/library-files.ts";

// What is left when both sides store the bytes: the guest's file system costs dd as much as us.
export default libraryFilesBench("files.write and files.read of 64 MiB ÷ dd of the same through the raw port, to and from a tmpfs", { atLeast: 0.5 }, storedFile);
