import assert from "node:assert/strict";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { resolveUser } from "./user-lookup.ts";

const passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1234:100::/srv/app:/bin/sh\n77:x:5:5::/seven:/bin/sh\nhalf:x:9\n\n# comment\n";
const group = "root:x:0:\nusers:x:100:\nstaff:x:50:app,other\nwheel:x:10:root,app\n";

// What podman 4.3 makes of the same images: the primary group is always one of the supplementary ones.
const users: Readonly<Record<string, readonly [uid: number, gid: number, additionalGids: readonly number[], home: string | undefined]>> = {
  "root": [0, 0, [0, 10], "/root"],
  "0": [0, 0, [0, 10], "/root"],
  "app": [1234, 100, [100, 50, 10], "/srv/app"],
  "1234": [1234, 100, [100, 50, 10], "/srv/app"],
  "app:staff": [1234, 50, [50], "/srv/app"],
  "app:7": [1234, 7, [7], "/srv/app"],
  "4000": [4000, 0, [0], undefined],
  "4000:4001": [4000, 4001, [4001], undefined],
  "77": [5, 5, [5], "/seven"],
};

for (const [user, [uid, gid, additionalGids, home]] of Object.entries(users)) {
  test(`user "${user}"`, () => assert.deepEqual(resolveUser(user, passwd, group), { uid, gid, additionalGids, home }));
}

test("an image without the files has numbers only", () => {
  assert.deepEqual(resolveUser("0", "", ""), { uid: 0, gid: 0, additionalGids: [0], home: undefined });
  assert.throws(() => resolveUser("root", "", ""), (error) => RuntimeError.is(error, "invalid_argument") && error.reason === "user_not_found");
});

for (const user of ["nobody-here", "app:nobody-here", "a:b:c", "-1", "4294967295", "1.5"]) {
  test(`user "${user}" is nobody`, () => assert.throws(() => resolveUser(user, passwd, group), (error) => RuntimeError.is(error, "invalid_argument") && error.reason === "user_not_found"));
}
