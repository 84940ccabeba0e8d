"""What `make bench-python` compares ours with; each answers with a constant. Usage: peers.py fastapi|starlette|grpc PORT"""

from __future__ import annotations

import sys
from typing import Any

POLLED = {
    "job_spec": {"task_type": "constant", "plugin_version": "v1"},
    "error_code": "",
    "message": "running",
    "job_state": "RUNNING",
}
CREATED = {"job_id": "job", "error_code": "", "message": ""}
PATH = "/plugins/v1/{task_type}/{version}"


def fastapi() -> Any:
    """Handlers as FastAPI's tutorial writes them; async, which is faster than a thread for each call."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get(PATH)
    async def poll() -> dict[str, Any]:
        return POLLED

    @app.put(PATH)
    async def create() -> dict[str, Any]:
        return CREATED

    return app


def starlette() -> Any:
    """Starlette's routes without anything."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def poll(request: Any) -> JSONResponse:
        return JSONResponse(POLLED)

    async def create(request: Any) -> JSONResponse:
        return JSONResponse(CREATED)

    return Starlette(routes=[Route(PATH, poll, methods=["GET"]), Route(PATH, create, methods=["PUT"])])


async def grpc(port: int) -> None:
    """flyteidl's service on grpc.aio, without flytekit."""
    from flyteidl.admin import agent_pb2
    from flyteidl.core import execution_pb2
    from flyteidl.service import agent_pb2_grpc
    from grpc import aio

    class Agent(agent_pb2_grpc.AsyncAgentServiceServicer):
        async def CreateTask(self, request: Any, context: Any) -> Any:
            return agent_pb2.CreateTaskResponse(resource_meta=b"job")

        async def GetTask(self, request: Any, context: Any) -> Any:
            resource = agent_pb2.Resource(phase=execution_pb2.TaskExecution.RUNNING, message="running")
            return agent_pb2.GetTaskResponse(resource=resource)

    server = aio.server()
    agent_pb2_grpc.add_AsyncAgentServiceServicer_to_server(Agent(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    what, port = sys.argv[1], int(sys.argv[2])
    if what == "grpc":
        import asyncio

        asyncio.run(grpc(port))
        return
    import uvicorn

    app = {"fastapi": fastapi, "starlette": starlette}[what]()
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
