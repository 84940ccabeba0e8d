"""A server of plugins: REST and gRPC in one process, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvicorn

from ._errors import ConfigurationError
from ._http import KEEP_ALIVE, Certificates, HTTPServer, Protocol
from ._service import Service
from .app import create_app

if TYPE_CHECKING:
    from ._grpc import GRPCServer

log = logging.getLogger("flyte_backend")

# How often files of certificates are looked at.
RENEWAL = 5.0


@dataclass
class Listening:
    """Where a server listens."""

    host: str = "127.0.0.1"
    port: int = 8080
    #: None does not serve gRPC.
    grpc_port: int | None = None
    #: None is plain text.
    certificates: Certificates | None = None
    #: An open socket for REST, in place of host and port.
    socket: socket.socket | None = field(default=None, repr=False)
    #: Several processes share the port of gRPC.
    reuse_port: bool = False


def open_socket(host: str, port: int, what: str = "") -> socket.socket:
    """A socket that listens. Raises :class:`ConfigurationError`; ``what`` says what for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=host == "::")
    except (OSError, OverflowError) as e:
        raise ConfigurationError(f"cannot listen on {host} port {port}{what}: {_why(e)}") from e


def _why(e: Exception) -> str:
    """socket.create_server adds the address to the system's text, which is told already."""
    text = str(getattr(e, "strerror", None) or e)
    return text.partition(" (while attempting to bind")[0]


class Server:
    """Serves a :class:`Service`. :meth:`run` is called once; :meth:`end` may be called from any thread."""

    def __init__(self, service: Service, listening: Listening) -> None:
        self.service = service
        self.listening = listening
        self.port = 0
        self.grpc_port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._at_once = False
        self._seen = False

    def end(self, *, at_once: bool = False, seen: bool = False) -> None:
        """Drain and end; a second time, or ``at_once``, without waiting. ``seen`` leaves out only the time that load balancers
        have to see that it is not ready."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end, at_once, seen)

    def _end(self, at_once: bool, seen: bool) -> None:
        if self._ending is not None:
            self._at_once = at_once or self._ending.is_set()
            self._seen = self._seen or seen
            self._ending.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until :meth:`end`. ``ready`` is called when callers are answered. Tells whether all calls ended."""
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        at, options = self.listening, self.service.options
        listener = at.socket or open_socket(at.host, at.port)
        self.port = listener.getsockname()[1]
        try:
            await self.service.start()
            grpc = self._grpc()
        except BaseException:
            listener.close()
            await self.service.stop()
            raise
        http = HTTPServer(
            uvicorn.Config(
                create_app(service=self.service),
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(options.drain_timeout)),
            )
        )
        http.config.load()
        http.config.ssl = at.certificates.context if at.certificates else None
        serving = asyncio.create_task(http.serve([listener]))
        if grpc is not None:
            await grpc.start()
        while not http.started and not serving.done():
            await asyncio.sleep(0.005)
        about: dict[str, object] = {"host": at.host, "port": self.port, "tls": at.certificates is not None}
        if grpc is not None:
            about["grpc_port"] = self.grpc_port
        for bound in self.service.plugins.bound:
            about.update(bound.plugin.runs_on)
        log.info("serving", extra={**about, "plugins": ", ".join(map(str, self.service.plugins.bound))})
        ready()
        renewing = asyncio.create_task(self._renew())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            renewing.cancel()
            ending.cancel()
        return await self._drain(http, serving, grpc)

    def _grpc(self) -> GRPCServer | None:
        at = self.listening
        if at.grpc_port is None:
            return None
        try:
            from ._grpc import GRPCServer, server_credentials
        except ImportError as e:
            raise ConfigurationError(
                f"serving gRPC needs {e.name or 'grpcio and flyteidl'}: pip install 'flyte-backend[grpc]'"
            ) from e
        host = f"[{at.host}]" if ":" in at.host else at.host
        credentials = server_credentials(at.certificates.read) if at.certificates else None
        try:
            server = GRPCServer(self.service, f"{host}:{at.grpc_port}", credentials, reuse_port=at.reuse_port)
        except OSError as e:  # it does not say why, which the system may
            open_socket(at.host, at.grpc_port, " for gRPC").close()
            raise ConfigurationError(f"cannot listen on {at.host} port {at.grpc_port} for gRPC: {e}") from e
        self.grpc_port = server.port
        return server

    async def _renew(self) -> None:
        while self.listening.certificates is not None:
            await asyncio.sleep(RENEWAL)
            self.listening.certificates.renew()

    async def _drain(self, http: HTTPServer, serving: asyncio.Task[None], grpc: GRPCServer | None) -> bool:
        options = self.service.options
        delay = 0.0 if self._seen else options.readiness_delay
        log.info("draining", extra={"readiness_delay": delay, "timeout": options.drain_timeout})
        self.service.drain()
        grace = options.drain_timeout
        waited = 0.0
        while waited < delay and not self._at_once and not serving.done():
            await asyncio.sleep(0.05)
            waited += 0.05
        if self._at_once:
            grace, http.force_exit, http.config.timeout_graceful_shutdown = 0.0, True, 1
        http.should_exit = True
        stops = [serving]
        if grpc is not None:
            stops.append(asyncio.create_task(grpc.stop(grace)))
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("the server failed", exc_info=result)
        await self.service.stop()
        clean = not self.service.is_busy
        if clean:
            log.info("drained")
        else:
            log.error("calls were cut off that had not ended in time")
        return clean
