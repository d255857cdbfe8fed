"""The interface described as OpenAPI 3.1, from the structs that it reads and writes."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from ops.api.shapes import Answer, Asked, Error, Label, Memories, Step

__all__ = ["document"]

_REF: Final = "#/components/schemas/{name}"
_BEARER: Final = [{"bearer": list[str]()}]
_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _json(name: str, text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ref(name)}}}


def _errors(*statuses: int) -> dict[str, Any]:
    texts = {
        400: "The request is refused; a label's value is never repeated.",
        401: "The token is missing or wrong.",
        404: "There is no such thing.",
        409: "The key belongs to another question.",
        413: "The body is too large.",
        503: "The ledger or Kafka does not answer, or too many streams are open.",
    }
    return {str(status): _json("Error", texts[status]) for status in statuses}


def _operation(
    name: str,
    text: str,
    responses: dict[str, Any],
    *,
    parameters: Sequence[dict[str, Any]] = (),
    body: str = "",
    is_open: bool = False,
) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": name, "summary": text, "responses": responses}
    if parameters:
        operation["parameters"] = list(parameters)
    if body:
        content = {"application/json": {"schema": _ref(body)}}
        operation["requestBody"] = {"required": True, "content": content}
    if not is_open:
        operation["security"] = _BEARER
    return operation


def _header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": text, "schema": schema}


def _query(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _text(media: str, text: str) -> dict[str, Any]:
    return {"description": text, "content": {media: {"schema": {"type": "string"}}}}


def _questions() -> dict[str, Any]:
    key = _header(
        "Idempotency-Key",
        "Names the question within its run: the same key again is the same question.",
        {"type": "string", "minLength": 1, "maxLength": 200},
    )
    place = _header("Last-Event-ID", "Only what came after this event.", {"type": "string"})
    after = _query("after", "As Last-Event-ID, for clients that cannot set it.", {"type": "string"})
    answer = "The question as it stands."
    return {
        "/questions": {
            "post": _operation(
                "ask",
                "Publish a question.",
                {
                    "200": _json("Answer", "The key's question was there before. " + answer),
                    "201": _json("Answer", "Accepted. " + answer),
                    "202": _json("Answer", "Published, and not yet accepted."),
                    **_errors(400, 401, 404, 409, 413, 503),
                },
                parameters=[key],
                body="Asked",
            )
        },
        "/questions/{id}": {
            "get": _operation(
                "question",
                "What became of a question.",
                {"200": _json("Answer", answer), **_errors(401, 404, 503)},
                parameters=[_ID],
            )
        },
        "/questions/{id}/events": {
            "get": _operation(
                "events",
                "A question's steps as server-sent events: each a Step, at the end an Answer.",
                {
                    "200": _text("text/event-stream", "Events named by their type, then `end`."),
                    "204": {"description": "All was sent before; do not come back."},
                    **_errors(400, 401, 404, 503),
                },
                parameters=[_ID, place, after],
            )
        },
    }


def _others() -> dict[str, Any]:
    run = _query("run", "The run whose memories.", {"type": "string", "default": "default"})
    limit = _query("limit", "How many.", {"type": "integer", "minimum": 1, "maximum": 500})
    return {
        "/labels": {
            "post": _operation(
                "label",
                "Give a question's gold answer; it is sealed on arrival.",
                {"202": {"description": "Published."}, **_errors(400, 401, 404, 413, 503)},
                body="Label",
            )
        },
        "/memories": {
            "get": _operation(
                "memories",
                "A run's newest memories.",
                {"200": _json("Memories", "Newest first."), **_errors(400, 401, 404, 503)},
                parameters=[run, limit],
            )
        },
        "/health": {
            "get": _operation(
                "health",
                "Whether the ledger answers.",
                {"200": {"description": "It does."}, **_errors(503)},
                is_open=True,
            )
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "Figures in Prometheus' text format.",
                {"200": _text("text/plain", "The figures."), **_errors(401, 503)},
            )
        },
        "/openapi.json": {
            "get": _operation(
                "openapi", "This document.", {"200": {"description": "It."}}, is_open=True
            )
        },
    }


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    _, schemas = msgspec.json.schema_components(
        [Asked, Answer, Label, Memories, Step, Error], ref_template=_REF
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mia-events",
            "version": version("mia-events"),
            "description": "Questions in, answers and every step to them out.",
        },
        "paths": {**_questions(), **_others()},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
