#!/usr/bin/env bash
# Measures which statements of ./go/... the tests of ./go/... run, whichever package a test is in. Generated files do not
# count. Prints the figure of each package and the total; fails when the total is below the percentage given. Then it does so
# for each module of its own below go; with --module it is told which one.
# usage: tools/cover.sh MINIMUM
set -euo pipefail
minimum=${1:?usage: tools/cover.sh MINIMUM}
root=$(cd "$(dirname "$0")/.." && pwd)
if [[ ${2:-} == --module ]]; then
	cd "$root/${3:?usage: tools/cover.sh MINIMUM --module FOLDER}"
	export GOWORK=off
	code=.
else
	cd "$root"
	code=go
fi
go=${GO:-go}
profile=coverage.out

# The figure that go test prints for a package is what its tests run of the whole tree here, which only confuses.
"$go" test -count=1 -parallel=16 -covermode=atomic -coverpkg="./$code/..." -coverprofile="$profile.all" "./$code/..." |
	sed -E -e '/^[[:space:]].*coverage: /d' -e '/^coverage: /d' -e 's/[[:space:]]+coverage: .*$//'

module=$("$go" list -m -f '{{.Path}}')
{ grep -rlE --include='*.go' '^// Code generated .* DO NOT EDIT\.$' "$code" || true; } | sed "s|^\./||; s|^|$module/|" >"$profile.generated"
awk 'FILENAME == ARGV[1] { generated[$0] = 1; next } !(substr($1, 1, index($1, ":") - 1) in generated)' \
	"$profile.generated" "$profile.all" >"$profile"
rm -f "$profile.all" "$profile.generated"

# A block occurs once for each test binary; it is covered when any of them ran it.
awk -v module="$module/" -v minimum="$minimum" '
	$1 == "mode:" { next }
	{
		statements[$1] = $2
		if ($3 > 0) ran[$1] = 1
	}
	END {
		for (block in statements) {
			package = substr(block, 1, index(block, ":") - 1)
			sub(/\/[^\/]*$/, "", package)
			if (index(package, module) == 1) package = substr(package, length(module) + 1)
			all[package] += statements[block]
			total += statements[block]
			if (block in ran) { covered[package] += statements[block]; sum += statements[block] }
		}
		if (total == 0) { print "nothing was measured" > "/dev/stderr"; exit 1 }
		for (package in all)
			printf "%6.1f %%  %6d of %6d  %s\n", 100 * covered[package] / all[package], covered[package], all[package], package | "sort -k6"
		close("sort -k6")
		printf "total: %.1f %% of %d statements (at least %s %% wanted)\n", 100 * sum / total, total, minimum
		if (100 * sum / total < minimum) { print "coverage is too low; see go tool cover -html=coverage.out" > "/dev/stderr"; exit 1 }
	}' "$profile"

if [[ ${2:-} != --module ]]; then
	"$root/tools/cover.sh" "$minimum" --module go/backendplugin
	"$root/tools/cover.sh" "$minimum" --module go/conformance
fi
