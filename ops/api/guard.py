"""What stands before every route: the token, the size of a body, errors as JSON."""

import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = [
    "OPEN",
    "Problem",
    "RequireToken",
    "body_of",
    "json_reply",
    "on_http_error",
    "on_problem",
]

#: Routes that need no token: they tell nothing about questions.
OPEN: Final = frozenset({"/health", "/openapi.json"})


class Problem(Exception):
    """A request that is refused: the status, a word for programs, a sentence for people."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})


def json_reply(
    content: Any,  # noqa: ANN401 - whatever JSON can hold
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a JSON response."""
    return Response(
        msgspec.json.encode(content), status, dict(headers or {}), media_type="application/json"
    )


def _refusal(problem: Problem) -> Response:
    content = {"error": {"code": problem.code, "message": problem.message}}
    return json_reply(content, problem.status, problem.headers)


async def on_problem(_: Request, error: Exception) -> Response:
    """Tell a refusal."""
    assert isinstance(error, Problem)
    return _refusal(error)


async def on_http_error(_: Request, error: Exception) -> Response:
    """Tell what the router refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    return _refusal(Problem(error.status_code, code, str(error.detail), error.headers))


class RequireToken:
    """Lets pass what carries `Authorization: Bearer TOKEN`, and the open routes."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, _digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand the request on."""
        if scope["type"] == "http" and scope["path"] not in OPEN and not self._may(scope):
            problem = Problem(
                401,
                "unauthorized",
                "send the header Authorization: Bearer TOKEN",
                {"www-authenticate": "Bearer"},
            )
            await _refusal(problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        # Digests are equally long, so that nothing is told by how long a comparison takes.
        equal = hmac.compare_digest(_digest(token.strip()), self._expected)
        return equal and scheme.lower() == b"bearer"


def _digest(token: bytes) -> bytes:
    return sha256(token).digest()


async def body_of(request: Request, most: int) -> bytes:
    """Read a body. Raises `Problem` (413) as soon as it is larger than `most` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Problem(413, "too_large", f"the body has more than {most} bytes")
    return bytes(body)
