#!/usr/bin/env bash
# Makes a virtual environment with flytekit's connector service, as tools/requirements-connector.txt pins it, and prints its
# folder: .cache/connector-<version>. See tools/venv.sh.
exec "$(dirname "$0")/venv.sh" connector tools/requirements-connector.txt pyflyte serve connector --help
