#!/usr/bin/env bash
# Makes the virtual environment for developing python/ and prints its folder, .cache/python-<checkout>: what
# tools/requirements-python.txt pins, and the package itself, editable. Does nothing when it is there; makes it anew when the
# requirements or the package's metadata changed, or the checkout was moved. May be called many times at once: the first makes
# it, the others wait. Everything but the folder goes to standard error.
#
# Needs Python 3.11 or 3.12 with the venv module, as what it pins does (flytekit ends at 3.12); FLYTE_BACKEND_PYTHON names one
# that is not found on PATH. The package itself works from 3.10 on.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tools/requirements-python.txt
# Checkouts may share .cache, and an environment belongs to one: the package in it is a path, and so are its scripts.
folder=$PWD/.cache/python-$(cksum <<<"$PWD" | cut -d ' ' -f 1)

# made prints what the environment is made of.
made() { echo "$PWD" && cat "$requirements" && sed '/^\[tool\.mypy\]/,$d' python/pyproject.toml; }

# complete says that the folder was made to its end, of that.
complete() { made | cmp --silent - "$folder/made-of.txt" 2>/dev/null; }

find_python() {
	local candidate
	for candidate in ${FLYTE_BACKEND_PYTHON:-python3 python3.12 python3.11}; do
		if "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
			echo "$candidate"
			return
		fi
	done
	echo 'python/ needs Python 3.11 or 3.12 with the venv module, and there is none on PATH; FLYTE_BACKEND_PYTHON can name one' >&2
	return 1
}

if ! complete; then
	python=$(find_python)
	mkdir -p .cache
	# The lock goes when this shell does, however it ends. Python takes it, because not every system has flock(1).
	exec 9>"$folder.lock"
	"$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
	if ! complete; then
		echo "Making $folder; this takes a minute, once." >&2
		rm -rf "$folder"
		"$python" -m venv "$folder" >&2 9>&-
		"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement "$requirements" >&2 9>&-
		"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable python >&2 9>&-
		"$folder/bin/flyte-backend-serve" --version >/dev/null 9>&-
		made >"$folder/made-of.txt" # last: it says that the rest is there
	fi
fi
echo "$folder"
