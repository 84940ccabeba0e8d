"""TLS of flyte-backend-serve."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from .conftest import Authority, Start

PLUGINS = ("--plugins", "tests.plugins.jobs:Jobs")
JOB: dict[str, object] = {"template": {}}
PATH = "/plugins/v1/square/v1"


def trusting(authority: Authority, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    if certificate:
        context.load_cert_chain(certificate[0], certificate[1])
    return context


def test_tls_and_client_certificates(start: Start, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("service")
    others = Authority(tmp_path / "others")
    process = start(
        *PLUGINS,
        "--tls-cert",
        str(certificate),
        "--tls-key",
        str(key),
        "--client-ca",
        str(authority.ca),
        "--readiness-delay",
        "0",
    )
    with httpx.Client(base_url=process.url, verify=trusting(authority)) as nobody:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert nobody.get(path).status_code == 200, "kubelet and Prometheus have no certificate"
        for path in ("/plugins/v1", "/docs", "/openapi.json", PATH + "?job_id=a"):
            answer = nobody.get(path)
            assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED"), path
    with httpx.Client(base_url=process.url, verify=trusting(authority, authority.issue("propeller"))) as propeller:
        assert propeller.get("/plugins/v1").status_code == 200
        assert propeller.put(PATH, json=JOB).status_code == 200
    with (
        pytest.raises(httpx.TransportError),
        httpx.Client(base_url=process.url, verify=trusting(authority, others.issue("x"))) as stranger,
    ):
        stranger.get("/healthz")
        stranger.get("/healthz")
    with pytest.raises(httpx.TransportError):
        httpx.get(process.url + "/healthz", verify=ssl.create_default_context(cafile=others.ca))
    with pytest.raises(httpx.TransportError):
        httpx.get(process.url.replace("https", "http") + "/healthz")


def serial(port: int, authority: Authority) -> int:

    with (
        socket.create_connection(("127.0.0.1", port), 5) as s,
        trusting(authority).wrap_socket(s, server_hostname="127.0.0.1") as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(True) or b"").serial_number


def test_certificates_are_read_again(start: Start, authority: Authority) -> None:
    certificate, key = authority.issue("service")
    process = start(*PLUGINS, "--tls-cert", str(certificate), "--tls-key", str(key))
    first = serial(process.about["port"], authority)
    key.write_text("broken")
    process.wait_for("the TLS files have changed and cannot be used")
    assert serial(process.about["port"], authority) == first
    authority.issue("service")
    process.wait_for("read the TLS files again")
    assert serial(process.about["port"], authority) > first
