#!/bin/sh
# ready.sh [--test] PROGRAM.ts [ARGUMENT...]: sets up and builds what is missing, then runs one of the project's own programs,
# so that it works on a clean clone too.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh --test
sh scripts/build.sh
exec node_modules/.bin/node --disable-warning=ExperimentalWarning "$@"
