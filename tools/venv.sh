#!/usr/bin/env bash
# Makes a virtual environment of a requirements file, and prints its folder: .cache/NAME-<version>, which is that of the package
# NAME, or else of flytekit. Does nothing when it is there. May be called many times at once: the first makes it, the others wait.
# Everything but the folder goes to standard error. tools/flytekit.sh, tools/connector.sh and tools/bqemulator.sh call it.
#
# Needs a Python from 3.10 to 3.12 with the venv module; FLYTEKIT_PYTHON names one that is not found on PATH.
# usage: tools/venv.sh NAME REQUIREMENTS COMMAND... (of the environment, which has to run when it is made)
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1 requirements=$2
shift 2
package=$(grep -qi "^$name==" "$requirements" && echo "$name" || echo flytekit)
version=$(sed -n "s/^$package==//p" "$requirements")
mkdir -p .cache
folder=$(cd .cache && pwd -P)/$name-$version # .cache may be a link

# made prints what the environment is made of. Its scripts name its folder, so one that was moved has to be made anew.
made() { echo "$folder" && cat "$requirements"; }

# complete says that the folder was made to its end, of that.
complete() { made | cmp --silent - "$folder/made-of.txt" 2>/dev/null; }

find_python() {
	local candidate
	for candidate in ${FLYTEKIT_PYTHON:-python3 python3.12 python3.11 python3.10}; do
		if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
			echo "$candidate"
			return
		fi
	done
	echo "$package $version needs a Python from 3.10 to 3.12 with the venv module, and there is none on PATH; FLYTEKIT_PYTHON can name one" >&2
	return 1
}

if ! complete; then
	python=$(find_python)
	# The lock goes when this shell does, however it ends. Python takes it, because not every system has flock(1).
	exec 9>"$folder.lock"
	"$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
	if ! complete; then
		echo "Making $folder; this takes a minute, once." >&2
		rm -rf "$folder"
		"$python" -m venv "$folder" >&2 9>&-
		"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" >&2 9>&-
		"$folder/bin/$1" "${@:2}" >/dev/null 9>&-
		made >"$folder/made-of.txt" # last: it says that the rest is there
	fi
fi
echo "$folder"
