#!/usr/bin/env bash
# Makes a virtual environment with bqemulator, which answers BigQuery's REST API and runs the SQL in DuckDB, as
# tools/requirements-bqemulator.txt pins it, and prints its folder: .cache/bqemulator-<version>. See tools/venv.sh.
#
# DuckDB looks for its extensions below HOME, and fetches them from its own site when they are not there. This one comes from a
# package and is installed into the environment: run the emulator with HOME set to the printed folder.
exec "$(dirname "$0")/venv.sh" bqemulator tools/requirements-bqemulator.txt python -c '
import os, pathlib, sys
os.environ["HOME"] = sys.prefix
import bqemulator, duckdb, duckdb_extension_spatial
(file,) = pathlib.Path(duckdb_extension_spatial.__file__).parent.glob("extensions/*/spatial.duckdb_extension")
connection = duckdb.connect()
connection.execute(f"INSTALL \x27{file}\x27")
connection.execute("LOAD spatial")
'
