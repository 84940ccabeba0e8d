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
. tools/environment.sh

requirements=tools/requirements-python.txt

made() { echo "$PWD" && cat "$requirements" && sed '/^\[tool\.mypy\]/,$d' python/pyproject.toml; }

install() {
	local pip=("$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps)
	"${pip[@]}" --requirement "$requirements"
	"${pip[@]}" --no-build-isolation --editable python
	"$1/bin/flyte-backend-serve" --version
}

mkdir -p .cache
# Checkouts may share .cache, and an environment belongs to one: the package in it is a path, and so are its scripts.
environment "$PWD/.cache/python-$(cksum <<<"$PWD" | cut -d ' ' -f 1)" \
	python/ 3.11 3.12 FLYTE_BACKEND_PYTHON python3 python3.12 python3.11
