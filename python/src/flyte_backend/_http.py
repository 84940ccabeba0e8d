"""uvicorn, with what it does not do itself: connections on which nothing comes end, and the application learns who calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Generator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ._errors import ConfigurationError

log = logging.getLogger("flyte_backend")

HEADER_TIMEOUT = 10.0
MAX_HEADER_BYTES = 64 << 10
# Longer than propeller's own, so that it is never hung up on while it sends.
KEEP_ALIVE = 300


class Protocol(HttpToolsProtocol):
    """A connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the class above
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does so only for sockets that say that they are TCP, which those of create_server do not. Without it an
            # answer waits for the caller's delayed acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = transport.get_extra_info("ssl_object")
        has_certificate = tls is not None and bool(tls.getpeercert())
        self.app_state = {**self.app_state, "client_certificate": has_certificate}
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:  # a request has begun
            self._header_bytes = 0
            self._stop_waiting()
        elif self.cycle is None or self.cycle.response_complete:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refuse()
            elif self._header_timer is None:
                self._wait_for_headers()

    def on_headers_complete(self) -> None:
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MAX_HEADER_BYTES:
            self.cycle = None  # type: ignore[assignment]  # there is no answer to wait for
            self._refuse()
            return
        super().on_headers_complete()

    def _refuse(self) -> None:
        text = b'{"error_code":"RESOURCE_EXHAUSTED","message":"the request\'s headers are larger than 65536 bytes"}'
        head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
        if not self.transport.is_closing():
            self.transport.write(head + b"content-length: %d\r\n\r\n%b" % (len(text), text))
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            super().on_message_complete()

    def _wait_for_headers(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


class HTTPServer(uvicorn.Server):
    """uvicorn without its own handling of signals: the service drains first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Certificates:
    """TLS of files that are read again when they change."""

    def __init__(self, certificate: str | Path, key: str | Path, client_ca: str | Path | None = None) -> None:
        self.certificate, self.key = Path(certificate), Path(key)
        self.client_ca = Path(client_ca) if client_ca else None
        self._seen = self._times()
        self.context = self._load()

    def _times(self) -> tuple[float, ...]:
        files = [f for f in (self.certificate, self.key, self.client_ca) if f is not None]
        try:
            return tuple(file.stat().st_mtime for file in files)
        except OSError as e:
            raise ConfigurationError(f"the TLS file {e.filename} cannot be read: {e.strerror}") from e

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError as e:
            raise ConfigurationError(
                f"the certificate {self.certificate} with the key {self.key} cannot be used: {e.strerror or e}"
            ) from e
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except OSError as e:
                raise ConfigurationError(f"the CA of clients, {self.client_ca}, cannot be used: {e.strerror or e}") from e
            context.verify_mode = ssl.CERT_OPTIONAL  # who needs one is a matter of the path
        return context

    def renew(self) -> None:
        """Read the files again if they have changed. What cannot be used is told, and the old ones stay."""
        try:
            if (now := self._times()) == self._seen:
                return
            self._load()
            self._seen = now
            self.context.load_cert_chain(self.certificate, self.key)
            if self.client_ca is not None:
                self.context.load_verify_locations(self.client_ca)
            log.info("read the TLS files again")
        except (ConfigurationError, OSError) as e:
            log.warning("the TLS files have changed and cannot be used", extra={"error": str(e)})

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Key, certificate, and the CA of clients."""
        return self.key.read_bytes(), self.certificate.read_bytes(), self.client_ca.read_bytes() if self.client_ca else None
