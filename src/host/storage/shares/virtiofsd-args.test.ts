import assert from "node:assert/strict";
import { test } from "node:test";
import { virtiofsdArgs } from "./virtiofsd-args.ts";

test("virtiofsdArgs() of the C program keeps a folder with commas whole", () => {
  assert.equal(virtiofsdArgs({ path: "v", flavour: "c" }, 3, "/run/a,b\\c/share").join(" "),
    "-f --fd=3 --thread-pool-size=4 -o source=/run/a\\,b\\\\c/share -o sandbox=namespace -o log_level=err -o cache=auto -o timeout=0 -o xattr -o no_posix_lock -o no_flock -o announce_submounts -o modcaps=-mknod");
});

test("virtiofsdArgs() of the Rust program has its own spelling", () => {
  assert.equal(virtiofsdArgs({ path: "v", flavour: "rust" }, 3, "/run/share").join(" "),
    "--fd=3 --shared-dir=/run/share --sandbox=namespace --cache=auto --xattr --thread-pool-size=4 --modcaps=-mknod --log-level=error");
});
