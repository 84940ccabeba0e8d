"""The conformance suite from Python: the command ``flyte-backend conformance``, against processes of a plugin's service."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from ._errors import ConfigurationError
from .client import task_template

COMMAND = "FLYTE_BACKEND_COMMAND"

# What the command ends with when the service conforms, and when it does not. Everything else is no report.
CONFORMS, DOES_NOT = 0, 1


@dataclass
class ConformanceResult:
    """What became of one case, such as ``delete/unknown``.

    ``outcome`` is passed, failed or skipped; ``level`` is must or should. ``reason`` tells why it was skipped. A problem has
    what was ``sent``, what it ``got``, what was ``due``, and ``contract``, the paragraph that says so.
    """

    case: str
    level: str
    outcome: str
    purpose: str
    plugin: str = ""
    reason: str = ""
    problems: list[dict[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.case}, which it {self.level}: {self.purpose}" + (f" ({self.plugin})" if self.plugin else "")]
        for problem in self.problems:
            lines += [f"    {name}: {problem.get(name, '')}" for name in ("sent", "got", "due", "contract")]
        return "\n".join(lines)


@dataclass
class ConformanceReport:
    """All cases, in the order in which they were tried."""

    results: list[ConformanceResult]
    strict: bool = False

    def of(self, outcome: str) -> list[ConformanceResult]:
        """The results with an outcome: ``passed``, ``failed``, ``skipped``."""
        return [result for result in self.results if result.outcome == outcome]

    @property
    def conforms(self) -> bool:
        """Whether nothing failed that counts: a service *must*, and if the check was strict also what it *should*."""
        return not any(result.level == "must" or self.strict for result in self.of("failed"))


def conformance(
    *plugins: str,
    connectors: Sequence[str] = (),
    endpoint: str | None = None,
    protocol: Literal["rest", "grpc"] = "rest",
    task_type: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    template: Mapping[str, Any] | None = None,
    long_inputs: Mapping[str, Any] | None = None,
    long_template: Mapping[str, Any] | None = None,
    failing_inputs: Mapping[str, Any] | None = None,
    failing_template: Mapping[str, Any] | None = None,
    custom: Any = None,
    outputs: Mapping[str, Any] | None = None,
    strict: bool = False,
    run: str | None = None,
    serve: Sequence[str] = (),
    flags: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    timeout: float = 600.0,
    program: str | None = None,
) -> ConformanceReport:
    """Check a plugin against the contract, and give the report. AssertionError tells what the service does that it must not.

    ``plugins`` and ``connectors`` are modules, as ``flyte-backend-serve`` takes them: two processes serve them on 127.0.0.1, as
    replicas, and one of them is killed and started again in the middle. Or ``endpoint`` is the address of a service that runs.

    ``inputs`` make a job that succeeds, ``long_inputs`` one that lasts until it is deleted, ``failing_inputs`` one that fails;
    the task is ``template``, or one of ``task_type`` with ``custom``, these inputs, and ``outputs`` of these Python types.
    Without them the cases that need such a job are skipped. ``run`` chooses cases by a regular expression; ``serve`` and
    ``flags`` are further arguments of ``flyte-backend-serve`` and of the command; ``env`` goes to the service, such as a folder
    of its jobs.

    The suite is the Go program ``flyte-backend``: ``program``, or what the environment variable FLYTE_BACKEND_COMMAND names, or
    the one on PATH. ConfigurationError if there is none, or it could not check; TimeoutError after ``timeout`` seconds.
    """
    if bool(plugins or connectors) == bool(endpoint):
        raise ConfigurationError("conformance takes either the modules of plugins or the endpoint of a service")
    modules = [word for name in plugins for word in ("--plugins", name)]
    modules += [word for name in connectors for word in ("--connectors", name)]
    if protocol not in ("rest", "grpc"):
        raise ConfigurationError(f"protocol {protocol!r}: takes 'rest' or 'grpc'")
    if template is None and task_type is None and (inputs or long_inputs or failing_inputs or custom is not None):
        raise ConfigurationError("conformance needs a template, or a task_type to make one of")
    command = [_program(program), "conformance", "--insecure", "--protocol", protocol, "-o", "json", *flags]
    if task_type is not None:
        command += ["--task-type", task_type]
    if strict:
        command.append("--strict")
    if run is not None:
        command += ["--run", run]
    with tempfile.TemporaryDirectory(prefix="flyte-backend-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if template is None and task_type is not None:
            template = task_template(task_type, custom=custom, inputs=inputs or long_inputs or failing_inputs, outputs=outputs)
        for kind, of_kind, its_template in (
            ("", inputs, template),
            ("long-", long_inputs, long_template),
            ("failing-", failing_inputs, failing_template),
        ):
            if its_template is not None:
                command += [f"--{kind}template", _write(folder, f"{kind}template.json", its_template)]
            if of_kind is not None:
                command += [f"--{kind}inputs", _write(folder, f"{kind}inputs.json", of_kind)]
        restart = None
        if endpoint is None:
            one, other = (stack.enter_context(_Service.running([*modules, *serve], protocol, env, timeout)) for _ in range(2))
            endpoint = one.address
            command += ["--replica", other.address]
            restart = _Restart(folder, one)
            command += ["--restart-command", restart.command]
        return _report(_run([*command, "--endpoint", endpoint], restart, timeout), strict)


def _program(program: str | None) -> str:
    wanted = program or os.environ.get(COMMAND) or "flyte-backend"
    found = shutil.which(wanted)
    if found is None:
        raise ConfigurationError(
            f"the conformance suite is the program flyte-backend, and there is no {wanted}: build it by "
            f"`make build` and put it on PATH, or name it in {COMMAND}"
        )
    return found


def _write(folder: Path, name: str, value: Mapping[str, Any]) -> str:
    path = folder / name
    path.write_text(json.dumps(value, default=_plain))
    return str(path)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return f"{value.total_seconds()}s"
    raise ConfigurationError(
        f"an input of type {type(value).__name__} cannot be given to the conformance suite; it takes what JSON has"
    )


class _Service:
    """A process of flyte-backend-serve."""

    def __init__(self, command: list[str], protocol: str, env: dict[str, str], timeout: float) -> None:
        self.command = command
        self.protocol = protocol
        self.env = env
        self.timeout = timeout
        self.ports: dict[str, int] = {"port": 0, "grpc_port": 0}
        self.process: subprocess.Popen[str] | None = None
        self.reader: threading.Thread | None = None

    @classmethod
    @contextlib.contextmanager
    def running(
        cls, arguments: Sequence[str], protocol: str, env: Mapping[str, str] | None, timeout: float
    ) -> Iterator[_Service]:
        command = [sys.executable, "-m", "flyte_backend._serve", "--insecure", "--log-format", "json", *arguments]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # a test's modules are found as the test finds them
        service = cls(command, protocol, {**os.environ, "PYTHONPATH": path, **(env or {})}, timeout)
        service.start()
        try:
            yield service
        finally:
            service.kill()

    @property
    def address(self) -> str:
        if self.protocol == "grpc":
            return f"127.0.0.1:{self.ports['grpc_port']}"
        return f"http://127.0.0.1:{self.ports['port']}"

    def start(self) -> None:
        """Starts it, at the ports that it had, and waits until it listens."""
        command = [*self.command, "--port", str(self.ports["port"])]
        if self.protocol == "grpc":
            command += ["--grpc-port", str(self.ports["grpc_port"])]
        process = subprocess.Popen(command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.process = process
        assert process.stderr is not None
        giving_up = threading.Timer(self.timeout, process.kill)
        giving_up.start()
        said: list[str] = []
        try:
            for line in process.stderr:
                said.append(line)
                with contextlib.suppress(ValueError, AttributeError):
                    about = json.loads(line)
                    if about.get("message") == "serving":
                        self.ports = {name: about.get(name) or 0 for name in self.ports}
                        break
            else:
                process.stderr.close()
                process.wait()
                raise ConfigurationError("the service did not start: " + "".join(said[-20:]).strip())
        finally:
            giving_up.cancel()
        self.reader = threading.Thread(target=_drain, args=[process.stderr], daemon=True)
        self.reader.start()

    def kill(self) -> None:
        """Ends it as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.reader is not None:
            self.reader.join()


def _drain(pipe: IO[str]) -> None:
    """Reads to the end: a full pipe would stop its process."""
    with pipe:
        for _ in pipe:
            pass


class _Restart:
    """A shell command that has this process kill a service and start it again. They meet over a file."""

    def __init__(self, folder: Path, service: _Service) -> None:
        self.asked = folder / "restart"
        self.service = service
        name = shlex.quote(str(self.asked))
        self.command = f": >{name}; while [ -e {name} ]; do sleep 0.05; done"

    def look(self) -> None:
        if self.asked.exists():
            self.service.kill()
            self.service.start()
            self.asked.unlink()


def _run(command: list[str], restart: _Restart | None, timeout: float) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=out, stderr=log, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + timeout
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the conformance suite did not end within {timeout:g} s")
                if restart is not None:
                    restart.look()
                time.sleep(0.02)
        finally:
            # Told to end, it still deletes the jobs that it has made.
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for file in (out, log):
            file.seek(0)
        if process.returncode not in (CONFORMS, DOES_NOT):
            raise ConfigurationError(log.read().strip() or f"{command[0]} ended with {process.returncode}")
        try:
            report: dict[str, Any] = json.loads(out.read())
            report["results"]
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(f"{command[0]} gave no report: is it the program flyte-backend?") from None
        return report


def _report(report: Mapping[str, Any], strict: bool) -> ConformanceReport:
    names = ConformanceResult.__dataclass_fields__
    results = [ConformanceResult(**{k: v for k, v in result.items() if k in names}) for result in report["results"]]
    out = ConformanceReport(results, strict)
    if not out.conforms:
        raise AssertionError("the service does not conform:\n" + "\n".join(str(result) for result in out.of("failed")))
    return out
