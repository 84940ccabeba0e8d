#!/usr/bin/env bash
# Makes the virtual environment of the demo's act in Python and prints its folder, .cache/demo-python-<checkout>: the package
# python/ and what it needs, at the versions of tools/requirements-python.txt. Does nothing when it is there; makes it anew when
# the package or the requirements changed, or the checkout was moved. May be called many times at once. The demo can do without
# it: where it cannot be made, this says why on standard error, prints no folder, and succeeds.
#
# Needs Python 3.11 or newer with the venv module, as the versions do; FLYTE_BACKEND_PYTHON names one that is not found on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
trap '[[ $? == 0 ]] || echo "No Python for the demo, which goes on without it." >&2; exit 0' EXIT

made() {
	echo "$PWD"
	cat tools/requirements-python.txt
	find python/pyproject.toml python/README.md python/LICENSE python/src -type f ! -name '*.pyc' | LC_ALL=C sort | xargs cksum
}

# Only wheels: what has none for this Python would be compiled for minutes, if it can be at all.
install() {
	local pip=("$1/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --constraint tools/requirements-python.txt)
	"${pip[@]}" hatchling
	"${pip[@]}" --no-build-isolation ./python
	"$1/bin/flyte-backend-serve" --version
}

mkdir -p .cache
environment "$PWD/.cache/demo-python-$(cksum <<<"$PWD" | cut -d ' ' -f 1)" \
	"the demo's act in Python" 3.11 4 FLYTE_BACKEND_PYTHON python3 python3.14 python3.13 python3.12 python3.11
