#!/usr/bin/env bash
# Builds the service when its source is newer than what is built, and runs it: PORT (8080), HOST (127.0.0.1), JOBS_DIR (jobs) and
# DRAIN_SECONDS (5) are its environment. `serve.sh build` only builds it. It may be called many times at once: the first one
# builds, the others wait.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if ! command -v node >/dev/null || ! command -v npm >/dev/null || (($(node --print 'process.versions.node.split(".")[0]') < 20)); then
	echo 'the TypeScript example needs Node 20 or newer with npm on PATH' >&2
	exit 1
fi

# built says that the program was made of these files, and to its end.
files=(package.json tsconfig.json wordcount.ts wordcount.test.ts)
sum() { (cd "$here" && cat "${files[@]}" | cksum); }
built() { [[ -f $here/dist/built && $(cat "$here/dist/built") == "$(sum)" ]]; }
if ! built; then
	lock=$here/.building
	for ((tries = 0; ; tries++)); do
		if mkdir "$lock" 2>/dev/null; then break; fi
		if ((tries > 1500)); then
			echo "somebody else has built the example for five minutes; if nobody has, remove $lock" >&2
			exit 1
		fi
		sleep 0.2
	done
	trap 'rmdir "$lock"' EXIT
	if ! built; then
		cd "$here"
		rm -rf dist
		npm install --silent --no-package-lock --no-audit --no-fund >&2
		npm run --silent build >&2
		sum >dist/built
		cd - >/dev/null
	fi
	rmdir "$lock"
	trap - EXIT
fi
if [[ ${1:-} == build ]]; then exit; fi
exec node "$here/dist/wordcount.js"
