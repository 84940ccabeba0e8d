#!/usr/bin/env bash
# Makes a virtual environment of a requirements file, and prints its folder: .cache/NAME-<version>, which is that of the package
# NAME, or else of flytekit. Does nothing when it is there. May be called many times at once: the first makes it, the others wait.
# Everything but the folder goes to standard error. tools/flytekit.sh and others call it.
#
# Needs a Python from 3.10 to 3.12 with the venv module; FLYTEKIT_PYTHON names one that is not found on PATH.
# usage: tools/venv.sh NAME REQUIREMENTS COMMAND... (of the environment, which has to run when it is made)
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh

name=$1 requirements=$2
shift 2
check=("$@")
package=$(grep -qi "^$name==" "$requirements" && echo "$name" || echo flytekit)
version=$(sed -n "s/^$package==//p" "$requirements")
mkdir -p .cache
folder=$(cd .cache && pwd -P)/$name-$version # .cache may be a link

made() { echo "$folder" && cat "$requirements"; }

install() {
	"$1/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
	"$1/bin/${check[0]}" "${check[@]:1}"
}

environment "$folder" "$package $version" 3.10 3.12 FLYTEKIT_PYTHON python3 python3.12 python3.11 python3.10
