"""Worker processes get what they need and no more; no list of processes shows a secret."""

from pathlib import Path

import msgspec
import pytest

from ops.connect import connections_to
from ops.embedded.spec import ChildSpec
from ops.embedded.stack import Endpoints
from ops.embedded.state import Home
from ops.embedded.vllm_server import chat_server
from ops.environments import ServeEnvironment
from ops.errors import Refused
from ops.models import adapters_of, missing_models, planner_replicas
from ops.processes import children
from ops.serving.config import ServingConfig
from ops.settings import load_settings
from ops.training.config import missing_trainer, trainer_config
from ops.worker import WorkerConfig

_ADMIN = "the-admins-password"
_WHERE = Endpoints("127.0.0.1:9", f"postgresql://postgres:{_ADMIN}@127.0.0.1:8/postgres")


def _children(folder: Path, **more: str) -> dict[str, ChildSpec]:
    home = Home(folder / "home")
    home.create()
    environ = {
        "MIA_HOME": str(home.root),
        "MIA_MODELS__DEFAULT__BASE_URL": "http://models/v1",
        "MIA_MODELS__DEFAULT__MODEL": "m",
        **more,
    }
    return {spec.name: spec for spec in children(load_settings(environ=environ), home, _WHERE)}


def _config(spec: ChildSpec) -> WorkerConfig:
    return msgspec.json.decode(spec.stdin, type=WorkerConfig)


def test_the_judge_and_admission_are_processes_of_their_own(tmp_path: Path) -> None:
    """Only the judge's process has the role that reads labels."""
    found = _children(tmp_path)
    assert ["workers", "judge", "admit"] == list(found)
    assert {
        "workers": ["mia_worker"],
        "judge": ["mia_judge"],
        "admit": ["mia_admit"],
    } == {name: list(_config(spec).dsns) for name, spec in found.items()}
    assert ["judge"] == list(_config(found["judge"]).endpoints)


def test_the_judge_can_try_versions_where_planners_are_trained(tmp_path: Path) -> None:
    """A trial needs every role's model; nobody else gets the role that reads labels for it."""
    found = _children(tmp_path, **_trained_elsewhere(tmp_path))
    assert {"planner", "executor", "judge", "embedder"} <= set(_config(found["judge"]).endpoints)
    assert ["mia_judge"] == list(_config(found["judge"]).dsns)


def _trained_elsewhere(folder: Path) -> dict[str, str]:
    """Settings of a machine that has no train environment, whatever its checkout has."""
    return {"MIA_TRAINING__ENABLED": "true", "MIA_TRAINING__FOLDER": str(folder / "none")}


def _train_environment(folder: Path) -> dict[str, str]:
    """A finished environment, and a checkpoint; settings that name them."""
    (folder / "train" / "bin").mkdir(parents=True)
    (folder / "train" / ".stamp").touch()
    (folder / "weights").mkdir()
    return {
        "MIA_TRAINING__ENABLED": "true",
        "MIA_TRAINING__FOLDER": str(folder / "train"),
        "MIA_TRAINING__MODEL": str(folder / "weights"),
        "MIA_TRAINING__THREADS": "2",
    }


def test_training_is_a_process_of_its_own(tmp_path: Path) -> None:
    """It has the train environment and the planner's weights; nobody else has."""
    found = _children(tmp_path, **_train_environment(tmp_path))
    config = _config(found["train"])
    assert config.trainer is not None
    assert (str(tmp_path / "weights"), 2, 1, "cpu") == (
        config.trainer.model, config.trainer.threads, config.trainer.processes,
        config.trainer.device,
    )  # fmt: skip
    assert (("train",), ["mia_worker"]) == (config.stages, list(config.dsns))
    others = [_config(spec) for name, spec in found.items() if name in {"workers", "judge"}]
    assert [None, None] == [config.trainer for config in others]
    assert not [config for config in others if "train" in config.stages]


def test_a_stack_without_a_train_environment_says_so(tmp_path: Path) -> None:
    """Another machine may train; a worker that is to train here is refused."""
    environ = _trained_elsewhere(tmp_path)
    assert "train" not in _children(tmp_path, **environ)
    settings = load_settings(environ=environ)
    (remark,) = missing_trainer(settings)
    assert "make env-train" in remark
    with pytest.raises(Refused, match="make env-train"):
        trainer_config(settings)
    assert () == missing_trainer(load_settings(environ={}))


def test_the_weights_to_train_are_those_that_are_served(tmp_path: Path) -> None:
    """What an endpoint elsewhere serves cannot be guessed."""
    environ = {**_train_environment(tmp_path), "MIA_TRAINING__MODEL": ""}
    environ |= {"MIA_MODELS__DEFAULT__BASE_URL": "http://m/v1", "MIA_MODELS__DEFAULT__MODEL": "m"}
    with pytest.raises(Refused, match=r"training\.model"):
        trainer_config(load_settings(environ=environ))


def test_no_secret_stands_in_a_command_line_or_a_repr(tmp_path: Path) -> None:
    """Passwords go through standard input alone; the administrator's goes nowhere."""
    found = _children(tmp_path)
    passwords = {path.read_text() for path in (tmp_path / "home" / "secrets").iterdir()}
    assert 3 == len(passwords)
    shown = "".join(f"{spec!r} {spec.env}" for spec in found.values())
    assert not [secret for secret in passwords if secret in shown]
    assert not [name for name, spec in found.items() if _ADMIN.encode() in spec.stdin]


def test_there_are_as_many_workers_as_wanted(tmp_path: Path) -> None:
    """`worker.processes` multiplies the workers, not the judge."""
    found = _children(tmp_path, MIA_WORKER__PROCESSES="3")
    assert ["workers-1", "workers-2", "workers-3", "judge", "admit"] == list(found)


def test_workers_can_be_left_out(tmp_path: Path) -> None:
    """A machine may run the log and the database alone."""
    assert {} == _children(tmp_path, MIA_EMBEDDED__WORKERS="false", MIA_EMBEDDED__MODELS="false")


def test_workers_wait_for_what_is_embedded_only(tmp_path: Path) -> None:
    """A part that is external is no child to wait for."""
    found = _children(
        tmp_path, MIA_KAFKA__MODE="external", MIA_KAFKA__BOOTSTRAP_SERVERS="kafka:9092"
    )
    assert ("postgres",) == found["workers"].depends_on


def test_the_administrator_reaches_the_projects_database() -> None:
    """Of an embedded Postgres the superuser's own database is not ours."""
    found = connections_to(load_settings(environ={}), _WHERE)
    assert f"postgresql://postgres:{_ADMIN}@127.0.0.1:8/mia" == found.database_dsn


def test_a_stack_without_models_says_so(tmp_path: Path) -> None:
    """A question would fail for want of a model: `mia up` tells before one is asked."""
    here = {"MIA_HOME": str(tmp_path), "MIA_EMBEDDED__MODELS": "false"}
    (remark,) = missing_models(load_settings(environ=here))
    assert "models.default.base_url" in remark
    elsewhere = {**here, "MIA_MODELS__DEFAULT__BASE_URL": "http://models/v1"}
    assert () == missing_models(load_settings(environ=elsewhere))


def test_only_a_stack_that_trains_serves_adapters(tmp_path: Path) -> None:
    """Adapters slow every request down a little: who does not train does not pay for them."""
    still = load_settings(environ={"MIA_HOME": str(tmp_path)})
    training = load_settings(environ={"MIA_HOME": str(tmp_path), "MIA_TRAINING__ENABLED": "true"})
    environment = ServeEnvironment(tmp_path / "python", tmp_path / "chat", tmp_path / "embedding")
    plain = chat_server(environment, 1, tmp_path, adapters=adapters_of(still))
    lora = chat_server(environment, 1, tmp_path, adapters=adapters_of(training))
    assert "--enable-lora" not in plain.argv()
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in plain.env()
    assert {"--enable-lora", "--max-loras", "8", "--max-lora-rank", "16"} <= set(lora.argv())
    assert "True" == lora.env()["VLLM_ALLOW_RUNTIME_LORA_UPDATING"]
    (plugin,) = Path(lora.env()["PYTHONPATH"]).glob("*.dist-info/entry_points.txt")
    assert "vllm.platform_plugins" in plugin.read_text()


def test_every_server_of_the_planner_is_to_be_brought_level(tmp_path: Path) -> None:
    """The planner's own one, or those behind its load balancer."""
    one = load_settings(environ={"MIA_HOME": str(tmp_path)})
    assert ["http://127.0.0.1:7/v1"] == [
        replica.base_url for replica in planner_replicas(one, {"chat": 7})
    ]
    assert () == planner_replicas(one, {})
    config = tmp_path / "mia.toml"
    config.write_text('[serving]\nreplicas = ["http://one/v1/", "http://two/v1"]\n')
    several = load_settings(config, environ={"MIA_HOME": str(tmp_path)})
    assert ["http://one/v1", "http://two/v1"] == [
        replica.base_url for replica in planner_replicas(several, {"chat": 7})
    ]


def test_versions_are_served_where_runs_may_train(tmp_path: Path) -> None:
    """A process of its own keeps the planner's servers level; it knows no label."""
    assert "policies" not in _children(tmp_path)
    found = _children(tmp_path, **_trained_elsewhere(tmp_path))
    assert ["policies", "workers", "judge", "admit"] == list(found)
    config = msgspec.json.decode(found["policies"].stdin, type=ServingConfig)
    assert ["http://models/v1"] == [replica.base_url for replica in config.replicas]
    assert "//mia_worker:" in config.dsn
    assert str(tmp_path / "home" / "adapters") == config.versions
    assert ("kafka", "postgres") == found["policies"].depends_on  # both are prepared first
