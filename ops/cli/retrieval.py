"""`mia retrieval build|search`: the index over the passages that the settings name."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import aiohttp
import msgspec
from cyclopts import App, Parameter

from ops.cli.stack_view import Waiting
from ops.cli.waiting import waiting_for
from ops.connected import home_of
from ops.console import console
from ops.errors import Refused
from ops.models import endpoints, ports_in_use
from ops.retrieval.child import is_ours, port_in_use, retrieval_config, retrieval_service
from ops.retrieval.config import embedding_of, open_index
from ops.retrieval.index import Facts
from ops.settings import Settings, load_settings

__all__ = ["retrieval"]

retrieval = App(name="retrieval", help="Index and search the passages in retrieval.passages.")
_OK = 200


@retrieval.command
def build() -> None:
    """Build the index that `mia up` serves, or find it built; nothing else is started."""
    settings = load_settings()
    if not is_ours(settings):
        raise Refused(
            "no passages are set",
            "Set retrieval.passages to a .jsonl file or a folder (MIA_RETRIEVAL__PASSAGES=PATH).",
        )
    home_of(settings).create()
    if not sys.stdout.isatty():
        facts = waiting_for(_build(settings, lambda _: None))
        print(msgspec.json.encode(msgspec.structs.replace(facts, sizes={})).decode())
        return
    with Waiting("opening the index") as waiting:
        facts = waiting_for(_build(settings, waiting.update))
    vectors = f"with vectors of {facts.embedder}" if facts.embedder else "by words"
    out = console()
    out.print(f"{facts.passages} passages {vectors}, built in {facts.seconds:.0f} s", markup=False)
    if facts.skipped:
        out.print(f"{facts.skipped} rows were skipped", style="yellow")
        for reason in facts.reasons:
            out.print(f"  {reason}", markup=False)


@retrieval.command
def search(
    query: str, /, *, top: Annotated[int | None, Parameter(name=["--top", "-n"])] = None
) -> None:
    """Search as the executor's tool does, at the service that runs; JSON lines in a pipe.

    Args:
        query: What to search for.
        top: How many passages (default: retrieval.top_k).
    """
    settings = load_settings()
    for place, hit in enumerate(waiting_for(_search(settings, query, top)), 1):
        if not sys.stdout.isatty():
            print(msgspec.json.encode(hit).decode())
            continue
        title, _, text = hit["document"]["contents"].partition("\n")
        named = f"{title} ({hit['document'].get('id', 'no id')})"
        console().print(f"{place}. {named}, score {hit['score']:.3f}", style="bold", markup=False)
        console().print(f"   {text}", markup=False)


async def _build(settings: Settings, told: Callable[[str], None]) -> Facts:
    models = endpoints(settings, ports_in_use(home_of(settings)))
    config = retrieval_config(settings, models)
    async with embedding_of(config) as embedding:
        return (await open_index(config, embedding, told)).facts


async def _search(settings: Settings, query: str, top: int | None) -> list[dict[str, Any]]:
    service = retrieval_service(settings, port_in_use(home_of(settings)))
    if service is None:
        raise Refused(
            "no retrieval service runs", "Set retrieval.passages and start it with `mia up`."
        )
    request = {"queries": [query], "topk": top or service.top_k, "return_scores": True}
    timeout = aiohttp.ClientTimeout(total=service.timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{service.base_url}/retrieve", json=request) as response,
        ):
            body = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Refused(
            f"{service.base_url} does not answer: {error}", "See `mia status`."
        ) from error
    if response.status != _OK:
        raise Refused(f"{service.base_url} refused: {body.decode()[:500]}", "")
    found: list[dict[str, Any]] = msgspec.json.decode(body)["result"][0]
    return found
