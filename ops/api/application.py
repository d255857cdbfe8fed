"""The routes."""

import uuid
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ops.api.guard import Problem, RequireToken, body_of, json_reply, on_http_error, on_problem
from ops.api.metrics import CONTENT_TYPE, exposition
from ops.api.openapi import document
from ops.api.service import Service
from ops.api.stream import Limit, parse_place, steps
from storage.postgres.gauges import PostgresGauges
from storage.postgres.history import place_after

__all__ = ["Api", "application"]

_MOST_STREAMS: Final = 200


class Api:
    """One method per route."""

    def __init__(self, service: Service, gauges: PostgresGauges, max_body: int) -> None:
        self._service, self._gauges, self._max_body = service, gauges, max_body
        self._streams = Limit(_MOST_STREAMS)

    async def ask(self, request: Request) -> Response:
        """Publish a question: 201 accepted, 200 there before, 202 not yet accepted."""
        key = request.headers.get("idempotency-key")
        body = await body_of(request, self._max_body)
        question, state, before = await self._service.ask(body, key)
        where = {"location": f"/questions/{question}"}
        if state is None:
            return json_reply({"id": question, "status": "published"}, 202, where)
        found = await self._service.question(question)
        return json_reply(found, 200 if before else 201, where)

    async def question(self, request: Request) -> Response:
        """Return what became of a question."""
        return json_reply(await self._service.question(_id(request)))

    async def events(self, request: Request) -> Response:
        """Stream a question's steps; 204 tells a client that comes back that all was sent."""
        question = _id(request)
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        place = parse_place(after)
        state = await self._service.state(question)
        history = self._service.history
        if place and state.closed:
            rest = await history.steps(state.run_no, question, place)
            if place_after(place, rest) == place:
                return Response(status_code=204)
        self._streams.require_room()
        return StreamingResponse(
            steps(history, question, place, self._streams),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    async def label(self, request: Request) -> Response:
        """Take in a label."""
        await self._service.label(await body_of(request, self._max_body))
        return json_reply({"status": "published"}, 202)

    async def memories(self, request: Request) -> Response:
        """List memories."""
        return json_reply({"memories": await self._service.memories(request.query_params)})

    async def health(self, _: Request) -> Response:
        """Tell whether the database answers."""
        await self._gauges.alive()
        return json_reply({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """Return figures for Prometheus."""
        return Response(exposition(await self._gauges.read()), media_type=CONTENT_TYPE)

    async def openapi(self, _: Request) -> Response:
        """Return the description of this interface."""
        return json_reply(document())

    def routes(self) -> list[Route]:
        """Return all of it."""
        return [
            Route("/questions", self.ask, methods=["POST"]),
            Route("/questions/{id}", self.question, methods=["GET"]),
            Route("/questions/{id}/events", self.events, methods=["GET"]),
            Route("/labels", self.label, methods=["POST"]),
            Route("/memories", self.memories, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]


def application(api: Api, token: str) -> Starlette:
    """Return the routes behind their guard."""
    return Starlette(
        routes=api.routes(),
        middleware=[Middleware(RequireToken, token=token)],
        exception_handlers={
            Problem: on_problem,
            HTTPException: on_http_error,
            ConnectionError: _unavailable,
        },
    )


async def _unavailable(request: Request, _: Exception) -> Response:
    problem = Problem(
        503, "unavailable", "the ledger or Kafka does not answer", {"retry-after": "2"}
    )
    return await on_problem(request, problem)


def _id(request: Request) -> uuid.UUID:
    try:
        return uuid.UUID(request.path_params["id"])
    except ValueError:
        raise Problem(404, "not_found", "a question's id is a UUID") from None
