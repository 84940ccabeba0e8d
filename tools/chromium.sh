#!/usr/bin/env bash
# Prints the path of a Chromium or Chrome for the tests of pages. FLYTE_BACKEND_CHROMIUM names one; otherwise the first one
# on the PATH is taken. Where there is none, and this is root on a system with apt-get, Debian's is installed.
set -euo pipefail

names=(chromium chromium-browser google-chrome google-chrome-stable chrome)
mac='/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'

find_browser() {
	local name
	for name in "${names[@]}"; do
		if command -v "$name"; then return 0; fi
	done
	if [[ -x $mac ]]; then
		echo "$mac"
		return 0
	fi
	return 1
}

if [[ -n ${FLYTE_BACKEND_CHROMIUM:-} ]]; then
	if ! command -v "$FLYTE_BACKEND_CHROMIUM"; then
		echo "FLYTE_BACKEND_CHROMIUM is $FLYTE_BACKEND_CHROMIUM, which is no program; give the path of a Chromium or Chrome" >&2
		exit 1
	fi
	exit 0
fi
if find_browser; then exit 0; fi
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
	echo 'Installing chromium for the tests of pages' >&2
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >&2
	apt-get install -y -qq --no-install-recommends chromium fonts-liberation >&2
	if find_browser; then exit 0; fi
fi
cat >&2 <<'END'
The tests of pages need Chromium or Chrome, and there is none on the PATH. Install one:
  Debian:  apt-get install chromium
  Fedora:  dnf install chromium
  macOS:   brew install --cask google-chrome
or name one in FLYTE_BACKEND_CHROMIUM.
END
exit 1
