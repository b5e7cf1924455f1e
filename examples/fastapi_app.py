"""Tasks from the requests of a FastAPI application; explained in docs/frameworks.md.

Serve: uvicorn examples.fastapi_app:api
Work:  stem-worker examples.fastapi_app:tasks
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Body, FastAPI, Header, Request
from fastapi.responses import JSONResponse

from stem import (
    BrokerError,
    InvalidInputError,
    Stem,
    TaskConflictError,
    TaskNotFoundError,
    UnknownTaskError,
)

# One for the whole process. A request waits at most one second for a broker that is away (see `refused` below).
tasks = Stem.connect(patience=1.0)


@tasks.task("report.build", max_retries=5)
async def build_report(report_id: str, pages: int = 10) -> dict[str, Any]:
    await asyncio.sleep(0.01 * pages)
    return {"report": report_id, "pages": pages}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with tasks:  # opens on the server's event loop; at the end sends what is on its way, and closes
        yield


api = FastAPI(lifespan=lifespan)


@api.post("/reports", status_code=202)
async def order_report(
    args: Annotated[dict[str, Any], Body()], idempotency_key: Annotated[str | None, Header()] = None
) -> dict[str, str]:
    """Enqueue; with the same `Idempotency-Key` again it is the same task, so a client may repeat after a 503."""
    return {"id": await tasks.enqueue("report.build", args=args, task_id=idempotency_key)}


@api.get("/tasks/{task_id}")
async def task_status(task_id: str) -> dict[str, Any]:
    status = await tasks.status(task_id)
    error = None if status.error is None else status.error.message
    return {"id": status.id, "state": status.state, "result": status.result, "error": error}


@api.exception_handler(InvalidInputError)
@api.exception_handler(UnknownTaskError)
async def invalid(_: Request, error: Exception) -> JSONResponse:
    """Nothing was sent: the request has to be changed."""
    return JSONResponse({"error": type(error).__name__, "message": str(error)}, 400)


@api.exception_handler(TaskNotFoundError)
async def not_found(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "TaskNotFoundError", "message": str(error)}, 404)


@api.exception_handler(TaskConflictError)
async def conflict(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "TaskConflictError", "message": str(error)}, 409)


@api.exception_handler(BrokerError)
async def refused(_: Request, error: Exception) -> JSONResponse:
    """The broker is away or full. Which server it is does not concern the caller; the log should say it."""
    message = "the task was not accepted, or it is not known whether it was: try again with the same Idempotency-Key"
    return JSONResponse({"error": type(error).__name__, "message": message}, 503, headers={"Retry-After": "5"})
