"""Where a search goes follows from the settings, and a mistake in them is named."""

from pathlib import Path

import msgspec
import pytest

from consumers.tools.retrieval import RetrievalService
from ops.doctor import examine
from ops.embedded.spec import ChildSpec
from ops.embedded.stack import Endpoints
from ops.embedded.state import Home
from ops.errors import Refused
from ops.processes import children
from ops.retrieval.child import check_service, retrieval_service
from ops.retrieval.config import RetrievalConfig
from ops.settings import Settings, load_settings
from ops.worker import WorkerConfig

_WHERE = Endpoints("127.0.0.1:9", "postgresql://postgres:p@127.0.0.1:8/postgres")


def _settings(folder: Path, **more: str) -> Settings:
    environ = {
        "MIA_HOME": str(folder / "home"),
        "MIA_MODELS__DEFAULT__BASE_URL": "http://models/v1",
        "MIA_MODELS__DEFAULT__MODEL": "m",
        **{f"MIA_RETRIEVAL__{key.upper()}": value for key, value in more.items()},
    }
    return load_settings(environ=environ)


def _children(settings: Settings) -> dict[str, ChildSpec]:
    home = Home(Path(settings.home))
    home.create()
    return {spec.name: spec for spec in children(settings, home, _WHERE)}


def _service(spec: ChildSpec) -> RetrievalService | None:
    return msgspec.json.decode(spec.stdin, type=WorkerConfig).retrieval


def test_without_passages_there_is_no_service(tmp_path: Path) -> None:
    """Nothing is started, and workers know of none."""
    found = _children(_settings(tmp_path))
    assert "retrieval" not in found
    assert _service(found["workers"]) is None


def test_passages_are_served_to_those_who_call_tools(tmp_path: Path) -> None:
    """Workers learn the port of the child that `mia up` starts; the judge does not."""
    found = _children(_settings(tmp_path, passages="p.jsonl", top_k="5"))
    port = found["retrieval"].port
    expected = RetrievalService(base_url=f"http://127.0.0.1:{port}", top_k=5)
    assert expected == _service(found["workers"])
    assert _service(found["judge"]) is None
    config = msgspec.json.decode(found["retrieval"].stdin, type=RetrievalConfig)
    assert (str(Path("p.jsonl").absolute()), 5, port) == (
        config.passages,
        config.top_k,
        config.port,
    )
    assert config.embedder is None


def test_vectors_need_the_embedder(tmp_path: Path) -> None:
    """The service gets the embedder's endpoint and model, and no other role's."""
    found = _children(_settings(tmp_path, passages="p.jsonl", dense="true"))
    config = msgspec.json.decode(found["retrieval"].stdin, type=RetrievalConfig)
    assert config.embedder is not None
    assert ("http://models/v1", "m") == (config.embedder.base_url, config.model)


def test_off_is_off(tmp_path: Path) -> None:
    """Passages that are set stay where they are."""
    assert "retrieval" not in _children(_settings(tmp_path, passages="p.jsonl", mode="off"))


def test_an_external_service_is_used_as_it_is(tmp_path: Path) -> None:
    """Nothing is started for it."""
    found = _children(_settings(tmp_path, mode="external", base_url="https://search:8001/"))
    assert "retrieval" not in found
    service = _service(found["workers"])
    assert service is not None
    assert "https://search:8001" == service.base_url


@pytest.mark.parametrize("base_url", ["", "search:8001", "ftp://search", "http://user:pw@search"])
def test_an_external_service_needs_an_address(tmp_path: Path, base_url: str) -> None:
    """The message says what to set; a password in an address is refused."""
    settings = _settings(tmp_path, mode="external", base_url=base_url)
    with pytest.raises(Refused, match=r"retrieval\.base_url") as refused:
        retrieval_service(settings, 0)
    assert "pw" not in str(refused.value)


async def test_an_external_service_that_is_away_is_refused_at_the_start(tmp_path: Path) -> None:
    """`mia up` does not wait for the first question to find out."""
    settings = _settings(tmp_path, mode="external", base_url="http://127.0.0.1:9")
    with pytest.raises(Refused, match="does not answer"):
        await check_service(settings)


@pytest.mark.parametrize("top_k", ["0", "101", "many"])
def test_a_number_of_passages_that_makes_no_sense_is_refused(tmp_path: Path, top_k: str) -> None:
    """The service would refuse it at every search."""
    with pytest.raises(Refused, match="top_k"):
        _settings(tmp_path, top_k=top_k)


def test_the_doctor_looks_at_the_passages(tmp_path: Path) -> None:
    """A path that is not there is missing, with the key to set."""
    path = tmp_path / "p.jsonl"
    before = {f.name: f for f in examine(_settings(tmp_path, passages=str(path)))}
    assert "retrieval.passages" in before["passages"].remedy
    path.write_text('{"text": "a passage"}')
    after = {f.name: f for f in examine(_settings(tmp_path, passages=str(path)))}
    assert after["passages"].ok
    assert "passages" not in {f.name for f in examine(_settings(tmp_path))}
