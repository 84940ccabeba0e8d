#!/usr/bin/env bash
# Runs the tests of all modules with the flags that it is given, and those of Python (PYTEST_FLAGS), but for what starts whole
# programs (make e2e) and meets the conformance suite with faults (make faults). The small modules' tests wait more than they
# compute, so they run beside the main module's; what they print comes after it.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
modules=(go/backendplugin go/conformance)
running=()
for module in "${modules[@]}"; do
	(cd "$module" && GOWORK=off "$go" test -skip '^TestEveryFaultIsTold$' "$@" ./...) >"$folder/${module//\//-}" 2>&1 &
	running+=($!)
done

failed=0
packages=$("$go" list ./... | grep -vE '/test(/|$)')
# What takes longest begins first. ./... leaves out what is below testdata.
# shellcheck disable=SC2086 # one word for each package
"$go" test "$@" ./go/tasks/plugins/webapi/backend ./cmd/flyte-backend-engine $packages ./testdata/workflows || failed=$?
for i in "${!modules[@]}"; do
	wait "${running[i]}" || failed=$?
	printf '\n%s:\n' "${modules[i]}"
	cat "$folder/${modules[i]//\//-}"
done

# After the others: with all at once, two cores are so busy that time limits of tests run out.
printf '\npython:\n'
make test-python || failed=$?
exit "$failed"
