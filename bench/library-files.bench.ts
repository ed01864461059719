import { libraryFilesBench } from "./support/library-files.ts";

export default libraryFilesBench("files.write and files.read of 64 MiB ÷ the raw port in and out", { atLeast: 0.5 });
