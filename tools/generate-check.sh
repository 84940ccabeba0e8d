#!/usr/bin/env bash
# Checks that generated files are what `make generate` would write. It works on a copy of the tree, so it neither needs a
# clean tree nor changes it: what is compared is the tree as it is, with everything that git would not ignore.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

mkdir -p .cache
copies=$(mktemp -d "$PWD/.cache/generate.XXXXXX")
trap 'rm -rf "$copies"' EXIT

mkdir "$copies/is"
git ls-files -z --cached --others --exclude-standard |
	while IFS= read -r -d '' file; do
		if [[ -e $file || -L $file ]]; then printf '%s\0' "$file"; fi # a deleted file is still listed
	done |
	tar --create --null --files-from=- | tar --extract --directory="$copies/is"
cp -a "$copies/is" "$copies/should"

export CACHE=$PWD/.cache # the tools are here, not in the copy
(cd "$copies/should" && "$go" generate ./...)
(cd "$copies/should/go/backendplugin" && GOWORK=off "$go" generate ./...)
(cd "$copies/should/go/conformance" && GOWORK=off "$go" generate ./...)
if ! (cd "$copies" && diff --recursive --unified --exclude=.cache is should); then
	echo 'generated files are out of date: run "make generate"' >&2
	exit 1
fi
echo 'generated files are current'
