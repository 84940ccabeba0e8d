"""The service as an ASGI application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from ._metrics import package_version
from ._plugin import BackendPluginBase
from ._protojson import contract
from ._rest import ContractRoute, not_found, routes
from ._service import Service, ServiceOptions

__all__ = ["BackendApp", "create_app"]


class BackendApp(FastAPI):
    """A FastAPI application whose OpenAPI document is the contract. ``service`` is what it serves."""

    service: Service
    _contract: list[ContractRoute]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The contract's own routes go past the layers that only middleware needs, which cost as much as all the rest."""
        if scope["type"] == "http" and not self.user_middleware:
            for route in self._contract:
                match, child = route.matches(scope)
                if match is Match.FULL:
                    scope.update(child)
                    return await route.handle(scope, receive, send)
        return await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        return contract()


def create_app(
    plugins: Sequence[BackendPluginBase] | None = None,
    options: ServiceOptions | None = None,
    *,
    service: Service | None = None,
) -> BackendApp:
    """The application that serves plugins: those that are given, else all that are registered.

    Run it with ``flyte-backend-serve``, which brings TLS, limits of connections and a graceful end; or with any ASGI server, as
    ``uvicorn --factory flyte_backend.app:create_app``.
    """
    serving = service or Service(plugins, options)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await serving.start()
        yield
        await serving.stop()

    app = BackendApp(
        title="Backend plugin service",
        version=package_version(),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.service = serving
    app._contract = routes(serving)
    app.router.routes.extend(app._contract)
    app.router.default = not_found
    return app
