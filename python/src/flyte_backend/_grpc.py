"""gRPC: flyteidl's agent services, and the extension, on top of the same plugins. It needs the extra ``grpc``.

Messages become the JSON form that the rest of the package works with, and back: REST and gRPC go through the same code.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
from flyteidl.service import agent_pb2 as agent_service_pb2
from google.protobuf import any_pb2, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from ._errors import BackendError, SystemError_, UserError
from ._grpc_messages import Context, message_of, pause_of
from ._grpc_services import AgentMetadata, AsyncAgents, Backend, Health, SyncAgents
from ._proto.flytebackend.v1 import backend_pb2
from ._service import Service

log = logging.getLogger("flyte_backend")

_STATUS = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: Context, e: BackendError) -> NoReturn:
    trailing: tuple[tuple[str, str | bytes], ...] = ()
    message = message_of(e)
    if e.after:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=pause_of(e.after)))
        status = status_pb2.Status(code=e.code.number, message=message, details=[detail])
        trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(_STATUS[e.code.number], message, trailing)
    raise AssertionError("abort raises")


def _handlers(service: ServiceDescriptor, servicer: Any) -> grpc.GenericRpcHandler:
    """The methods of a service. What they raise becomes the code that the caller gets.

    They take bytes and read them here, since grpc would call a message that cannot be read the service's own failure; an
    interceptor could do the same, at a tenth of a poll's cost.
    """
    made = {}
    for method in service.methods:
        read = message_factory.GetMessageClass(method.input_type).FromString
        write = message_factory.GetMessageClass(method.output_type).SerializeToString
        do = getattr(servicer, method.name, None)
        if do is None:
            continue  # a later release has it; the caller gets UNIMPLEMENTED
        if method.client_streaming and not inspect.isasyncgenfunction(do):
            made[method.name] = grpc.stream_stream_rpc_method_handler(_writing(do), read, write)
        elif method.client_streaming:
            made[method.name] = grpc.stream_stream_rpc_method_handler(_streaming(do), read, write)
        elif method.server_streaming:
            made[method.name] = grpc.unary_stream_rpc_method_handler(_streaming(do, read), None, write)
        else:
            made[method.name] = grpc.unary_unary_rpc_method_handler(_unary(do, read), None, write)
    return grpc.method_handlers_generic_handler(service.full_name, made)


async def _fail(context: Context, e: Exception) -> NoReturn:
    if not isinstance(e, (BackendError, DecodeError)):
        log.error("the service failed", exc_info=e)
        e = SystemError_("the service failed; its log has the details")
    await _abort(context, e if isinstance(e, BackendError) else UserError("the message cannot be read"))


def _unary(do: Callable[[Any, Context], Awaitable[Any]], read: Callable[[bytes], Any]) -> Callable[[bytes, Context], Any]:
    async def answer(raw: bytes, context: Context) -> Any:
        try:
            return await do(read(raw), context)
        except Exception as e:
            await _fail(context, e)

    return answer


def _streaming(
    do: Callable[[Any, Context], AsyncIterator[Any]], read: Callable[[bytes], Any] | None = None
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for one in do(request if read is None else read(request), context):
                yield one
        except Exception as e:
            await _fail(context, e)

    return answer


def _writing(do: Callable[[Any, Context], Awaitable[None]]) -> Callable[[Any, Context], Awaitable[None]]:
    async def answer(requests: Any, context: Context) -> None:
        try:
            await do(requests, context)
        except Exception as e:
            await _fail(context, e)

    return answer


class GRPCServer:
    """The plugins over gRPC. ``credentials`` of None is plain text."""

    def __init__(
        self,
        service: Service,
        address: str,
        credentials: grpc.ServerCredentials | None,
        *,
        reuse_port: bool = False,
    ) -> None:
        limit = service.options.max_request_bytes
        self.ending = asyncio.Event()
        self.server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        flyteidl = agent_service_pb2.DESCRIPTOR.services_by_name
        services = [
            (flyteidl["AsyncAgentService"], AsyncAgents(service)),
            (flyteidl["SyncAgentService"], SyncAgents(service)),
            (flyteidl["AgentMetadataService"], AgentMetadata(service)),
            (backend_pb2.DESCRIPTOR.services_by_name["BackendService"], Backend(service, self.ending)),
            (health_pb2.DESCRIPTOR.services_by_name["Health"], Health(service, self.ending)),
        ]
        self.server.add_generic_rpc_handlers([_handlers(descriptor, servicer) for descriptor, servicer in services])
        served = [*(descriptor.full_name for descriptor, _ in services), reflection.SERVICE_NAME]
        reflection.enable_server_reflection(served, self.server)
        try:
            if credentials is None:
                self.port = self.server.add_insecure_port(address)
            else:
                self.port = self.server.add_secure_port(address, credentials)
        except RuntimeError as e:
            raise OSError(f"{re.sub(r'; .*', '', str(e))[:200]}") from e

    async def start(self) -> None:
        await self.server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls; those under way have so long to end."""
        self.ending.set()
        await self.server.stop(grace)


def server_credentials(read: Callable[[], tuple[bytes, bytes, bytes | None]]) -> grpc.ServerCredentials:
    """Credentials of files that are read again when they change: ``read`` gives key, certificate, and the CA of clients."""
    last = read()
    needs_client = last[2] is not None

    def configuration(files: tuple[bytes, bytes, bytes | None]) -> Any:
        key, certificate, ca = files
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)

    def fetch() -> Any:
        nonlocal last
        try:
            now = read()
        except OSError:
            return None  # keeps what there is
        if now == last:
            return None
        last = now
        return configuration(now)

    return grpc.dynamic_ssl_server_credentials(configuration(last), fetch, require_client_authentication=needs_client)
