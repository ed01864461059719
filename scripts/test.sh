#!/bin/sh
# test.sh [--only check|unit|integration|e2e|lab] [FILTER...]: sets up, builds and runs the tests.
# Ends with one closing line, "N passed, N failed", also when it does not come as far as the tests.
set -eu
cd "$(dirname "$0")/.."
prepare() {
	sh scripts/setup.sh --test && sh scripts/build.sh
}
prepare || {
	echo "0 passed, 1 failed"
	exit 1
}
exec node_modules/.bin/node scripts/run-tests.ts "$@"
