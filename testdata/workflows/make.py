"""Packages the workflows beside this file with `pyflyte package`: one archive for each module.

Run it in an environment of its own, and keep what it writes:

    python3 -m venv /tmp/workflows && /tmp/workflows/bin/pip install flytekit==1.16.31
    /tmp/workflows/bin/python testdata/workflows/make.py

The same sources give the same bytes. pyflyte's own archives differ each time, so they are packed anew: without the files'
times and owners and the time in gzip's header, with the files sorted by name (not in the order of a temporary folder),
with protobuf maps in a fixed order, and with a node's upstream nodes sorted (flytekit keeps them in a set). The settings
that flytekit hands to dynamic tasks name the folder of the sources; here it is that of the code in a container, /root.
"""

import base64
import gzip
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from flyteidl.admin.task_pb2 import TaskSpec
from flyteidl.admin.workflow_pb2 import WorkflowSpec

HERE = pathlib.Path(__file__).resolve().parent
# Modules that hold no workflows of their own.
LIBRARIES = {"jobs", "make"}
# The module whose package is kept as a folder of files too.
FOLDER = "chains"
KINDS = {"_1.pb": TaskSpec, "_2.pb": WorkflowSpec, "_3.pb": LaunchPlan}


def package(module: str, source: pathlib.Path) -> dict:
    """Gives the package's files by name."""
    with tempfile.TemporaryDirectory() as tmp:
        archive = pathlib.Path(tmp) / "package.tgz"
        subprocess.run(
            [sys.executable, "-m", "flytekit.clis.sdk_in_container.pyflyte", "--pkgs", module, "package",
             "--source", source, "--output", archive, "--image", "localhost/none:1", "--python-interpreter", "python3"],
            check=True, stdout=subprocess.DEVNULL, cwd=tmp,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(HERE)},
        )  # fmt: skip
        files = {}
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                message = KINDS[member.name[-5:]].FromString(tar.extractfile(member).read())
                settle(message)
                files[member.name] = message.SerializeToString(deterministic=True)
        return files


def settle(message) -> None:
    """Takes out what depends on chance or on the place of the sources."""
    if isinstance(message, WorkflowSpec):
        for workflow in (message.template, *message.sub_workflows):
            for node in workflow.nodes:
                node.upstream_node_ids.sort()
    if isinstance(message, TaskSpec):
        for variable in message.template.container.env:
            if variable.key == "_F_SS_C":
                settings = json.loads(gzip.decompress(base64.b64decode(variable.value)))
                settings["source_root"] = "/root"
                packed = gzip.compress(json.dumps(settings).encode(), mtime=0)
                variable.value = base64.b64encode(packed).decode()


def write_archive(files: dict, path: pathlib.Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            tar.addfile(info, io.BytesIO(files[name]))
    path.write_bytes(gzip.compress(raw.getvalue(), 9, mtime=0))


def write_folder(files: dict, folder: pathlib.Path) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.pb"):
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def main(wanted: list) -> None:
    sources = [p for p in sorted(HERE.glob("*.py")) + sorted(HERE.glob("demo/*.py")) if p.stem not in LIBRARIES]
    for source in sources:
        if wanted and source.stem not in wanted:
            continue
        files = package(source.stem, source.parent)
        write_archive(files, source.with_suffix(".tgz"))
        if source.stem == FOLDER:
            write_folder(files, HERE / "folder")
        print(f"{source.stem}: {len(files)} files, {source.with_suffix('.tgz').stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
