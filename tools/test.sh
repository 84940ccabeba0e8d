#!/usr/bin/env bash
# Runs the tests of all modules with the flags that it is given. The small modules' tests wait more than they compute, so they run
# beside the main module's; what they print comes after it.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
modules=(go/backendplugin go/conformance)
declare -A running
for module in "${modules[@]}"; do
	(cd "$module" && GOWORK=off "$go" test "$@" ./...) >"$folder/${module//\//-}" 2>&1 &
	running[$module]=$!
done

failed=0
"$go" test "$@" ./... ./testdata/workflows || failed=$? # ./... leaves out what is below testdata
for module in "${modules[@]}"; do
	wait "${running[$module]}" || failed=$?
	printf '\n%s:\n' "$module"
	cat "$folder/${module//\//-}"
done
exit "$failed"
