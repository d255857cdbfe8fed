"""A manifest pins everything that a run's requests depend on."""

from pathlib import Path

import pytest

from consumers import prompts
from ops.errors import Refused
from ops.manifest import code_version, manifest_of, shown
from ops.models import ROLES, endpoints, needs_embedded
from ops.settings import load_settings

_ELSEWHERE = {
    "MIA_MODELS__DEFAULT__BASE_URL": "http://models:8000/v1/",
    "MIA_MODELS__DEFAULT__MODEL": "big",
}
_TRAINS = {"MIA_TRAINING__ENABLED": "true", "MIA_TRAINING__HYPER__LR": "0.001"}


def test_it_holds_prompts_models_and_the_code() -> None:
    """Texts of prompts, a model for every role, a version that names the code."""
    manifest = manifest_of(load_settings(environ={}), rollouts=3, lag=None)
    assert prompts.load() == manifest.prompts
    assert set(ROLES) == set(manifest.roles)
    assert (3, 0) == (manifest.rollouts, manifest.lag)
    assert code_version() == manifest.code_version != ""


def test_it_holds_how_each_role_samples_and_how_long_its_context_is() -> None:
    """What a request depends on is pinned, so that a later setting changes no run."""
    environ = {
        "MIA_MODELS__EXECUTOR__CONTEXT_TOKENS": "32768",
        "MIA_MODELS__PLANNER__SAMPLING__TOP_P": "0.9",
    }
    roles = manifest_of(load_settings(environ=environ)).roles
    assert (32_768, 1.0) == (roles["executor"].context_tokens, roles["executor"].top_p)
    assert (8_192, 0.9) == (roles["planner"].context_tokens, roles["planner"].top_p)


def test_a_run_chooses_its_judge_and_the_language_of_its_executor() -> None:
    """Supervised and JSON, unless it says otherwise."""
    settings = load_settings(environ={})
    plain = manifest_of(settings)
    assert ("supervised", "json", False) == (plain.judge, plain.executor_grammar, plain.train)
    chosen = manifest_of(settings, judge="unsupervised", executor_grammar="tags")
    assert ("unsupervised", "tags") == (chosen.judge, chosen.executor_grammar)


def test_a_reader_sees_the_prompts_digest() -> None:
    """The texts are long; what tells two sets apart is their digest."""
    told = shown(manifest_of(load_settings(environ={})))
    assert prompts.digest(prompts.load()) == told["prompts"]


@pytest.mark.parametrize(
    "chosen, reason",
    [
        ({"mode": "sometimes"}, "no mode"),
        ({"label_wait_s": 60, "judge": "unsupervised"}, "only a supervised judge waits"),
        ({"label_wait_s": 60, "question_deadline_s": 30}, "ends the wait"),
        ({"label_wait_s": 60, "mode": "batch", "deterministic": True}, "no limits of time"),
        ({"rollouts": 0}, "rollouts"),
        ({"lag": -1}, "lag"),
        ({"seed": "x"}, "seed"),
        ({"judge": "jury"}, "judge"),
        ({"executor_grammar": "xml"}, "executor_grammar"),
        ({"deterministic": True}, "needs batches"),
        ({"deterministic": True, "mode": "batch", "question_deadline_s": 3.0}, "no limits of time"),
    ],
)
def test_what_cannot_work_is_refused(chosen: dict[str, object], reason: str) -> None:
    """A run is made once: better no run than one that contradicts itself."""
    with pytest.raises(Refused, match=reason):
        manifest_of(load_settings(environ={}), **chosen)


def test_a_run_that_trains_fits_the_servers_of_the_planner() -> None:
    """So many versions may be asked for at once, of such a rank; a run that does not train may
    have any lag.
    """
    wide = {"mode": "batch", "rollouts": 2, "staleness": 9}
    here = load_settings(environ={**_TRAINS, "MIA_SERVING__MAX_LORAS": "4"})
    assert 1 == manifest_of(here, train=True, lag=1, **wide).lag
    assert 2 == manifest_of(here, lag=2, **wide).lag
    with pytest.raises(Refused, match=r"5 versions.*room for 4.*serving\.max_loras"):
        manifest_of(here, train=True, lag=2, **wide)
    with pytest.raises(Refused, match=r"rank 32.*serving\.max_lora_rank"):
        manifest_of(here, train=True, hyper={"lora_rank": 32}, **wide)
    with pytest.raises(Refused, match="servers take adapters"):
        manifest_of(here, train=True, hyper={"lora_rank": 0}, **wide)


def test_a_run_that_trains_all_weights_needs_servers_of_its_own(tmp_path: Path) -> None:
    """Where versions take each other's place, and the base model comes back from its folder."""
    full = {
        **_TRAINS,
        "MIA_SERVING__WEIGHTS": "full",
        "MIA_MODELS__PLANNER__BASE_URL": "http://planner/v1",
        "MIA_MODELS__PLANNER__MODEL": "planner",
        "MIA_SERVING__REPLICAS": '["http://planner/v1"]',
    }
    wide = {"mode": "batch", "rollouts": 2, "train": True, "hyper": {"lora_rank": 0}}
    here = load_settings(environ={**full, "MIA_TRAINING__MODEL": str(tmp_path)})
    assert 0 == manifest_of(here, **wide).hyper.lora_rank
    with pytest.raises(Refused, match=r"would train an adapter"):
        manifest_of(here, **{**wide, "hyper": {"lora_rank": 4}})
    with pytest.raises(Refused, match=r"where the base model's weights lie"):
        manifest_of(load_settings(environ=full), **wide)
    shared = load_settings(
        environ={
            **full,
            "MIA_MODELS__JUDGE__BASE_URL": "http://planner/v1/",
            "MIA_MODELS__JUDGE__MODEL": "planner",
        }
    )
    with pytest.raises(Refused, match=r"the judge is served where"):
        manifest_of(shared, **wide)
    with pytest.raises(Refused, match=r"serving\.replicas"):
        manifest_of(load_settings(environ={**full, "MIA_SERVING__REPLICAS": "[]"}), **wide)
    embedded = {**_TRAINS, "MIA_SERVING__WEIGHTS": "full"}
    with pytest.raises(Refused, match=r"embedded vLLM serves every role"):
        manifest_of(load_settings(environ=embedded), **wide)


def test_roles_use_the_embedded_servers_or_their_own_endpoint() -> None:
    """Without a base_url a role is served by vLLM here: the embedder by its own server."""
    settings = load_settings(environ={"MIA_MODELS__JUDGE__BASE_URL": "http://judge/v1"})
    found = endpoints(settings, {"chat": 11, "embedding": 12})
    assert "http://127.0.0.1:11/v1" == found["planner"].base_url
    assert "http://127.0.0.1:12/v1" == found["embedder"].base_url
    assert "http://judge/v1" == found["judge"].base_url
    assert needs_embedded(settings)


def test_a_role_without_a_server_has_no_endpoint() -> None:
    """Its calls fail with what to set, rather than go to a port that nobody listens on."""
    assert {} == endpoints(load_settings(environ={}), {})


def test_external_models_need_no_embedded_server() -> None:
    """One endpoint for all roles; a slash at its end does not matter."""
    settings = load_settings(environ=_ELSEWHERE)
    assert not needs_embedded(settings)
    assert "http://models:8000/v1" == endpoints(settings, {})["router"].base_url


def test_an_endpoint_without_a_model_is_refused() -> None:
    """Which model to ask for cannot be guessed."""
    environ = {"MIA_MODELS__DEFAULT__BASE_URL": "http://models:8000/v1"}
    with pytest.raises(Refused, match="no model"):
        manifest_of(load_settings(environ=environ))


def test_a_key_is_read_from_its_file(tmp_path: Path) -> None:
    """Settings name the file; the key itself stands only there."""
    key = tmp_path / "key"
    key.write_text("abc\n")
    environ = {**_ELSEWHERE, "MIA_MODELS__DEFAULT__API_KEY_FILE": str(key)}
    assert "abc" == endpoints(load_settings(environ=environ), {})["judge"].api_key


def test_a_run_that_trains_leaves_room_for_prompts_in_its_rows() -> None:
    """A planner's reply has a quarter of a row at most; hyper-parameters come from the settings."""
    settings = load_settings(environ=_TRAINS)
    manifest = manifest_of(settings, train=True, mode="batch", rollouts=4)
    assert (128, 512, 0.001) == (
        manifest.roles["planner"].max_tokens, manifest.hyper.row_tokens, manifest.hyper.lr,
    )  # fmt: skip
    assert settings.models.executor.sampling.max_tokens == manifest.roles["executor"].max_tokens


@pytest.mark.parametrize(
    "chosen, environ, reason",
    [
        ({"mode": "batch", "rollouts": 4}, {}, "does not train"),
        ({"mode": "batch", "rollouts": 1}, _TRAINS, "group of one"),
        ({"mode": "batch", "rollouts": 4, "judge": "none"}, _TRAINS, "judge"),
        ({"mode": "batch", "rollouts": 4, "hyper": {"lr": -1}}, _TRAINS, "hyper"),
        ({"mode": "batch", "rollouts": 4, "lag": 9}, _TRAINS, "too old"),
    ],
)
def test_training_that_cannot_work_is_refused(
    chosen: dict[str, object], environ: dict[str, str], reason: str
) -> None:
    """Before the run is made: nothing to compare, nothing to reward, nobody to train."""
    with pytest.raises(Refused, match=reason):
        manifest_of(load_settings(environ=environ), train=True, **chosen)
