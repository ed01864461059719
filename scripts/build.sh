#!/bin/sh
# build.sh: builds dist if anything it is built from has changed since the last build.
set -eu
cd "$(dirname "$0")/.."
. scripts/progress.sh

# Folders are compared too: removing a file changes its folder.
up_to_date() {
	[ -f dist/.built ] && [ -z "$(find src proto scripts/build.ts package.json package-lock.json tsconfig*.json -newer dist/.built -print -quit)" ]
}

# The mark carries the time from before the build: what changes during it is built again.
build() {
	: >node_modules/.casemate-build-began
	node_modules/.bin/node scripts/build.ts
	mv node_modules/.casemate-build-began dist/.built
}

up_to_date || step "Building" build
