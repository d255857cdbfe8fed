"""What `/retrieve` takes and gives: the contract of Search-R1's retrieval server."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec

from ops.retrieval.index import Found

__all__ = ["LARGEST_BODY", "Request", "decode_request", "reply_to"]

LARGEST_BODY: Final = 2**20
_FORM: Final = '{"queries": ["text", …], "topk": 3, "return_scores": true}'


class Request(msgspec.Struct, frozen=True):
    """Queries, how many passages each is to find (None: the service's own number), and the form of
    the reply. Unknown fields are tolerated.
    """

    queries: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=4_000)], ...],
        msgspec.Meta(min_length=1, max_length=256),
    ]
    topk: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    return_scores: bool = False


_request: Final = msgspec.json.Decoder(Request)


def decode_request(body: bytes) -> Request:
    """Return the request in a body. Raises `ValueError` with what to send instead."""
    try:
        request = _request.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{error}; send {_FORM}") from None
    blank = [number for number, query in enumerate(request.queries) if not query.strip()]
    if blank:
        raise ValueError(f"query {blank[0]} is blank; send {_FORM}")
    return request


def reply_to(request: Request, found: Sequence[Sequence[Found]], corpus: str) -> dict[str, Any]:
    """Return the reply: a list per query, best first; bare documents when no scores are wanted.

    `corpus` is ours beside the contract: the digest of what was searched.
    """
    return {"result": [[_hit(request, one) for one in each] for each in found], "corpus": corpus}


def _hit(request: Request, found: Found) -> Any:  # noqa: ANN401 - either form becomes JSON
    if request.return_scores:
        return {"document": found.passage, "score": found.score}
    return found.passage
