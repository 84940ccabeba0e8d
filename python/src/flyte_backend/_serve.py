"""The command flyte-backend-serve."""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NoReturn

from ._errors import ConfigurationError, FlyteBackendError
from ._http import Certificates
from ._logging import set_up
from ._metrics import SHARED, package_version
from ._registry import ENTRY_POINTS, BackendPluginRegistry
from ._secrets import Secrets
from ._server import Listening, Server, open_socket
from ._service import Service, ServiceOptions

log = logging.getLogger("flyte_backend")

# Exit codes: it ended well; calls were cut off; it could not start as it is set up; it was interrupted before it served.
OK, CUT_OFF, CANNOT_START, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT

SECRETS_DIR = "/etc/secrets"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flyte-backend-serve",
        description="Serves backend plugins to FlytePropeller, over REST and, if asked to, gRPC.",
        epilog="Exit codes: 0 it was told to end and did, 1 calls were cut off at the end, 2 it could not start, "
        "130 it was interrupted before it served.",
    )
    defaults = ServiceOptions()
    what = parser.add_argument_group("what is served")
    what.add_argument(
        "--plugins",
        action="append",
        default=[],
        metavar="MODULE[:NAME]",
        help="a module that registers plugins, or a plugin in it; may be repeated",
    )
    what.add_argument(
        "--connectors",
        action="append",
        default=[],
        metavar="MODULE",
        help="flytekit's connectors of a module, such as flytekitplugins.bigquery; flytekit for its own (sensor, webhook), "
        "flytekitplugins for all that are installed; may be repeated; needs the extra flytekit",
    )
    what.add_argument(
        "--installed", action="store_true", help=f"plugins of installed packages (entry points {ENTRY_POINTS}); the default"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s); 0.0.0.0 is all")
    where.add_argument("--port", type=int, default=8080, help="port for REST (%(default)s); 0 takes a free one")
    where.add_argument("--grpc-port", type=int, help="port for gRPC; without it there is none")
    where.add_argument("--tls-cert", metavar="FILE", help="certificate, PEM; read again when it changes")
    where.add_argument("--tls-key", metavar="FILE", help="its key")
    where.add_argument("--client-ca", metavar="FILE", help="ask for client certificates that this CA has signed")
    where.add_argument("--insecure", action="store_true", help="plain text, to whoever calls")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    limits.add_argument("--max-concurrent", type=int, default=defaults.max_concurrent, help="calls at once (%(default)s)")
    limits.add_argument(
        "--max-request-bytes", type=int, default=defaults.max_request_bytes, help="size of a request (%(default)s)"
    )
    limits.add_argument(
        "--timeout", type=float, default=defaults.timeout, help="seconds for a call (%(default)s); 0 is no limit"
    )
    limits.add_argument(
        "--execute-timeout", type=float, default=defaults.execute_timeout, help="seconds for a synchronous task; 0 is no limit"
    )
    end = parser.add_argument_group("readiness and ending")
    end.add_argument("--probe-interval", type=float, default=defaults.probe_interval, help="seconds (%(default)s)")
    end.add_argument(
        "--readiness-delay",
        type=float,
        default=defaults.readiness_delay,
        help="seconds to go on after SIGTERM while /readyz says no (%(default)s); none after Ctrl-C",
    )
    end.add_argument(
        "--drain-timeout", type=float, default=defaults.drain_timeout, help="then, seconds for calls under way (%(default)s)"
    )
    other = parser.add_argument_group("other")
    other.add_argument("--secrets-dir", default=SECRETS_DIR, help="folder of secrets (%(default)s)")
    other.add_argument("--log-format", choices=("json", "text"), help="text on a terminal, else json")
    other.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    other.add_argument("--version", action="version", version=f"flyte-backend {package_version()}")
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)  # of a worker: the socket
    return parser


def _certificates(args: argparse.Namespace) -> Certificates | None:
    if args.insecure:
        if args.tls_cert or args.tls_key or args.client_ca:
            raise ConfigurationError("--insecure and TLS exclude each other")
        return None
    if not args.tls_cert or not args.tls_key:
        raise ConfigurationError(
            "refusing to serve without TLS: give --tls-cert and --tls-key, or say --insecure to serve plain text"
        )
    return Certificates(args.tls_cert, args.tls_key, args.client_ca)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Serve until SIGTERM or an interrupt; a second one ends at once."""
    given = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(given)
    set_up(args.log_format or ("text" if sys.stderr.isatty() else "json"), args.log_level)
    try:
        if args.workers < 1:
            raise ConfigurationError(f"--workers is {args.workers}; at least one is needed")
        for name, port in (("--port", args.port), ("--grpc-port", args.grpc_port or 0)):
            if not 0 <= port < 1 << 16:
                raise ConfigurationError(f"{name} is {port}, which is no port")
        certificates = _certificates(args)
        code = _supervise(given, args) if args.workers > 1 and args.fd is None else _serve(args, certificates)
    except FlyteBackendError as e:
        log.debug("it could not start", exc_info=True)
        print(f"flyte-backend-serve: {e}", file=sys.stderr)
        code = CANNOT_START
    except KeyboardInterrupt:
        code = INTERRUPTED
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Threads of plugins that never end would keep the process otherwise."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(args: argparse.Namespace, certificates: Certificates | None) -> int:
    options = ServiceOptions(
        timeout=args.timeout,
        execute_timeout=args.execute_timeout,
        max_concurrent=args.max_concurrent,
        max_request_bytes=args.max_request_bytes,
        readiness_delay=args.readiness_delay,
        drain_timeout=args.drain_timeout,
        probe_interval=args.probe_interval,
        needs_client_certificate=args.client_ca is not None,
        secrets=Secrets(folder=args.secrets_dir),
    )
    _load(args)
    listening = Listening(args.host, args.port, args.grpc_port, certificates)
    if args.fd is not None:
        listening.socket, listening.reuse_port = socket.socket(fileno=args.fd), True
    service = Service(None, options)
    server = Server(service, listening)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, server.end)
        # Somebody sits at a terminal and waits, and no load balancer asks for readiness.
        loop.add_signal_handler(signal.SIGINT, functools.partial(server.end, seen=True))
        if await server.run(_spare_collector):
            return
        _exit(CUT_OFF)  # what does not end would keep the loop

    try:
        import uvloop
    except ImportError:
        asyncio.run(run())
    else:
        uvloop.run(run())
    return OK


def _spare_collector() -> None:
    """What is there when it begins to serve stays, so no garbage collection need look at it; and what a call makes hardly ever
    is such garbage, so it need not look often. Over REST each is a tenth of a call's cost."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def _load(args: argparse.Namespace) -> None:
    """Register what is to be served."""
    # For modules that import flytekit: it looks for secrets elsewhere, and decorates tracebacks, unless it is told.
    if args.secrets_dir != SECRETS_DIR:
        os.environ.setdefault("FLYTE_SECRETS_DEFAULT_DIR", args.secrets_dir)
    os.environ.setdefault("FLYTE_SDK_RICH_TRACEBACKS", "0")
    for name in args.plugins:
        BackendPluginRegistry.load(name)
    if args.connectors:
        from .connectors import register_connectors

        register_connectors(*args.connectors)
    if args.installed or not (args.plugins or args.connectors):
        BackendPluginRegistry.load_installed()
    if "flytekit" in sys.modules:
        from .connectors import use_service_log

        use_service_log()


def _supervise(given: Sequence[str], args: argparse.Namespace) -> int:
    """Run several processes that share the port, and a new one for each that dies."""
    if args.grpc_port == 0:
        raise ConfigurationError("--grpc-port 0 takes a free port, which several workers cannot share; name one")
    listener = open_socket(args.host, args.port)
    listener.set_inheritable(True)
    with tempfile.TemporaryDirectory(prefix="flyte-backend-") as folder:
        os.environ[SHARED] = folder  # workers tell each other there what they have counted
        return _watch_over(given, args, listener)


def _watch_over(given: Sequence[str], args: argparse.Namespace, listener: socket.socket) -> int:
    command = [sys.executable, "-m", "flyte_backend._serve", *given, "--fd", str(listener.fileno())]
    ending: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: ending.append(number))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, pass_fds=[listener.fileno()], start_new_session=True)

    began = time.monotonic()
    workers = [start() for _ in range(args.workers)]
    log.info("starting workers", extra={"host": args.host, "port": listener.getsockname()[1], "workers": args.workers})
    told = 0
    code = OK
    while True:
        if len(ending) > told:
            told = len(ending)
            for worker in workers:
                worker.send_signal(ending[-1])
        for i, worker in enumerate(workers):
            ended = worker.poll()
            if ended is None or ending:
                continue
            if ended == CANNOT_START:  # so would the next one
                ending.append(signal.SIGTERM)
                code = CANNOT_START
                continue
            log.error("a worker ended", extra={"pid": worker.pid, "code": ended})
            if time.monotonic() - began < 1:
                time.sleep(1)
            began = time.monotonic()
            workers[i] = start()
        if ending and all(worker.poll() is not None for worker in workers):
            # The signal itself ends a worker only before it serves.
            good = (OK, -signal.SIGTERM, -signal.SIGINT, INTERRUPTED)
            return code or (OK if all(worker.returncode in good for worker in workers) else CUT_OFF)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
