#!/usr/bin/env bash
# Makes a virtual environment with the flytekit that tools/requirements-flytekit.txt pins, and prints its folder:
# .cache/flytekit-<version>. See tools/venv.sh.
exec "$(dirname "$0")/venv.sh" flytekit tools/requirements-flytekit.txt pyflyte-execute --help
