#!/bin/sh
# setup.sh [--test]: installs what is missing to build and run (with --test: and to test) on Debian 12.
# Safe to run again at any time; it asks the system what is there and does nothing that is done.
set -eu
cd "$(dirname "$0")/.."
. scripts/progress.sh

# Another package manager, for example unattended upgrades at boot, may hold the lock for minutes.
lock_limit_s=${CASEMATE_LOCK_LIMIT_S:-300}
sets=run
[ "${1:-}" != --test ] || sets="run test"

main() {
	missing=$(missing_packages)
	[ -z "$missing" ] || install_packages $missing
	# The guest's kernel is fetched later, by apt-get download, which needs Debian's package lists.
	kernel_is_known || [ "$(id -u)" -ne 0 ] || step "Fetching Debian's package lists" apt_get update
	npm_up_to_date || install_npm_packages
	[ -x node_modules/.bin/node ] || fail "npm installed no Node of the project's own" \
		"check that npm may install optional dependencies (npm config get omit), remove node_modules and try again"
}

fail() {
	echo "setup: $1" >&2
	echo "  next: $2" >&2
	exit 1
}

# Wanted packages that dpkg does not know as installed, in the order of the list.
missing_packages() {
	command -v dpkg-query >/dev/null || fail "this is not Debian" "install by hand what scripts/debian-packages.txt lists"
	wanted=$(for set in $sets; do sed -n "s/^$set  *\([^ ]*\).*/\1/p" scripts/debian-packages.txt; done)
	# dpkg-query fails when one of the packages is unknown, which is an answer here.
	there=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null | sed -n 's/^installed //p') || :
	for package in $wanted; do
		printf '%s\n' "$there" | grep -qx "$package" || echo "$package"
	done
}

install_packages() {
	if [ "$(id -u)" -ne 0 ]; then
		fail "these Debian packages are missing: $*" "sudo apt-get install --no-install-recommends $*"
	fi
	# A package list that is missing or names versions the mirror no longer has: fetch it, once.
	known_packages "$@" || step "Fetching Debian's package lists" apt_get update
	(step "Installing $# Debian packages" apt_get install "$@") || {
		step "Fetching Debian's package lists again" apt_get update
		step "Installing $# Debian packages" apt_get install "$@"
	}
}

known_packages() {
	for package in "$@"; do
		LC_ALL=C apt-cache policy "$package" | grep -q 'Candidate: [0-9]' || return 1
	done
}

kernel_is_known() {
	[ -n "$(find /var/lib/casemate/guest/kernels -maxdepth 1 -name 'linux-image*' -print -quit 2>/dev/null)" ] || known_packages "linux-image-$(dpkg --print-architecture)"
}

# apt-get without questions, trying again while another program holds one of its locks.
apt_get() {
	verb=$1
	shift
	out=$(mktemp "${TMPDIR:-/tmp}/casemate-apt.XXXXXX")
	end=$(($(date +%s) + lock_limit_s))
	while :; do
		code=0
		# RUNLEVEL=1 keeps packages with a service from starting it where there is no systemd.
		LC_ALL=C DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get "$verb" -y -q --no-install-recommends \
			-o DPkg::Lock::Timeout=5 -o Acquire::Retries=3 -o Dpkg::Options::=--force-confold "$@" >"$out" 2>&1 || code=$?
		cat "$out"
		[ "$code" -ne 0 ] && grep -Eq 'Could not get lock|Unable to (acquire|lock)' "$out" || break
		if [ "$(date +%s)" -ge "$end" ]; then
			echo "another package manager holds the lock for more than $lock_limit_s s: wait for it to end, then run this again"
			break
		fi
		echo "waiting for another package manager to end ($(grep -Eo 'held by process [0-9]+( \([^)]*\))?' "$out" | head -n 1), limit $lock_limit_s s)"
		sleep 2
	done
	rm -f "$out"
	return "$code"
}

# The lock file that node_modules was installed from is kept inside it.
npm_up_to_date() {
	[ -x node_modules/.bin/node ] && cmp -s package-lock.json node_modules/.casemate-package-lock.json
}

install_npm_packages() {
	command -v npm >/dev/null || fail "npm is missing" "install Node.js with npm, any version from 18 on; the project brings the Node it runs on itself"
	step "Installing npm packages" npm ci --no-audit --no-fund --loglevel=warn
	cp package-lock.json node_modules/.casemate-package-lock.json
}

main
