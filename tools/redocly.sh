#!/usr/bin/env bash
# Checks api/openapi.yaml as an OpenAPI document, by the rules of api/redocly.yaml, with the Redocly CLI that
# tools/package-redocly.json pins, in .cache. The first time it is installed. Its schemas are checked by Go's tests.
set -euo pipefail
cd "$(dirname "$0")/.."
pinned=tools/package-redocly.json
folder=$PWD/.cache/redocly-$(sed -n 's/.*"@redocly\/cli": "\(.*\)".*/\1/p' "$pinned")

if ! cmp --silent "$pinned" "$folder/complete.json"; then
	if ! command -v npm >/dev/null; then
		echo 'checking api/openapi.yaml needs Node 20 or newer with npm, and there is none on PATH' >&2
		exit 1
	fi
	echo 'Installing the Redocly CLI.' >&2
	rm -rf "$folder"
	mkdir -p "$folder"
	cp "$pinned" "$folder/package.json"
	npm install --silent --no-package-lock --no-audit --no-fund --prefix "$folder" >&2
	cp "$pinned" "$folder/complete.json" # last: it says that the rest is there
fi
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true
"$folder/node_modules/.bin/redocly" lint --config api/redocly.yaml api/openapi.yaml
