#!/bin/sh
# quickstart.sh: from a clean checkout to a container in a VM. A second run redoes nothing that is valid.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
sh scripts/build.sh
. scripts/progress.sh
step "Making the guest image, a template for fast starts and the busybox image" node_modules/.bin/node scripts/prepare.ts

echo "Starting a container in a virtual machine ..."
host=$(uname -r)
guest=$(bin/casemate run --rm busybox uname -r </dev/null)
cat <<END

  kernel of this machine:  $host
  kernel of the container: $guest

Three things to try next:
  ./bin/casemate run --rm -it busybox sh
  ./bin/casemate run -d --name web -p 8080:80 busybox httpd -f -p 80
  ./bin/casemate check
END
