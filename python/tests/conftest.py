"""What the tests share: real processes of flyte-backend-serve, and a certificate authority."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PYTHON = Path(__file__).parent.parent
ROOT = PYTHON.parent


@dataclass
class Process:
    """A process of flyte-backend-serve."""

    popen: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    _new: queue.Queue[str | None] = field(default_factory=queue.Queue)

    def read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line)
            self._new.put(line)
        self._new.put(None)

    def wait_for(self, message: str, timeout: float = 60) -> dict[str, Any]:
        """The log line with a message."""
        deadline = time.monotonic() + timeout
        while True:
            line = self._new.get(timeout=max(0.01, deadline - time.monotonic()))
            if line is None:
                raise AssertionError(f"the process ended before {message!r}:\n{''.join(self.lines)}")
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(line)
                if found.get("message") == message:
                    return found

    @property
    def url(self) -> str:
        return f"{'https' if self.about['tls'] else 'http'}://127.0.0.1:{self.about['port']}"

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        return self.popen.wait(timeout)


Start = Callable[..., Process]


def _command(*args: str) -> list[str]:
    return [sys.executable, "-m", "flyte_backend._serve", "--log-format", "json", *args]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts flyte-backend-serve with arguments; modules are written to its folder first."""
    processes: list[Process] = []

    def run(*args: str, wait: bool = True, env: dict[str, str] | None = None, **modules: str) -> Process:
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        port = [] if "--port" in args else ["--port", "0"]
        popen = subprocess.Popen(
            _command(*args, *port),
            cwd=tmp_path,
            env={**os.environ, "JOBS_FOLDER": str(tmp_path / "jobs"), "PYTHONPATH": str(PYTHON), **(env or {})},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        process = Process(popen)
        threading.Thread(target=process.read, daemon=True).start()
        processes.append(process)
        if wait:
            process.about = process.wait_for("serving")
        return process

    yield run
    for process in processes:
        process.popen.kill()
        process.popen.wait()
        if process.popen.stderr is not None:
            process.popen.stderr.close()


@dataclass
class Authority:
    """Signs certificates for 127.0.0.1."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    made: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.folder.name)])
        self.ca = self.folder / "ca.crt"
        self.ca.write_bytes(self._sign(self.name, self.key.public_key(), is_ca=True))

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePublicKey, is_ca: bool) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc)
        self.made += 1
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(self.made)
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.KeyUsage(not is_ca, False, False, False, False, is_ca, is_ca, False, False), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key; the same name again replaces them."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, secret = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        secret.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate.write_bytes(self._sign(subject, key.public_key(), is_ca=False))
        return certificate, secret


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def eventually(check: Callable[[], Any], timeout: float = 60) -> Any:
    """What ``check`` gives, as soon as it is true and raises nothing."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if found := check():
                return found
        except Exception:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise AssertionError("it did not come to pass in time")
        time.sleep(0.02)
