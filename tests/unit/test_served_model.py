"""The embedded server serves the model in the box, or whatever the settings name."""

from pathlib import Path

import pytest

from ops.embedded import report
from ops.embedded.report import Report
from ops.embedded.state import Home
from ops.embedded.vllm_server import CHAT_MODEL
from ops.errors import Refused
from ops.models import chat_model, choices, served_chat_model
from ops.settings import EmbeddedSettings, Settings


def test_a_hugging_face_id_is_served_under_its_name() -> None:
    """Requests name what a run pins."""
    served = chat_model(EmbeddedSettings(model="Qwen/Qwen3-8B", dtype="bfloat16", compiled=True))
    assert ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B") == (served.model, served.name)
    assert ("bfloat16", False) == (served.dtype, served.eager)
    settings = Settings(embedded=EmbeddedSettings(model="Qwen/Qwen3-8B"))
    assert "Qwen/Qwen3-8B" == choices(settings)["executor"].model
    assert "all-minilm-l6-v2" == choices(settings)["embedder"].model


def test_a_folder_is_served_under_the_folders_name(tmp_path: Path) -> None:
    """No path of this machine gets into a manifest."""
    folder = tmp_path / "planner-8b"
    folder.mkdir()
    served = chat_model(EmbeddedSettings(model=str(folder)))
    assert (str(folder), "planner-8b") == (served.model, served.name)


def test_a_folder_that_is_not_there_is_refused() -> None:
    """It is no Hugging Face id either."""
    with pytest.raises(Refused, match="no checkpoint folder"):
        chat_model(EmbeddedSettings(model="/nowhere/at/all"))


def test_runs_pin_what_the_stack_that_is_up_serves(tmp_path: Path) -> None:
    """A model named on the command line of `mia up` is known to every later command."""
    settings, home = Settings(home=str(tmp_path / "home")), Home(tmp_path / "home")
    assert CHAT_MODEL == served_chat_model(settings)
    with home.locked():
        report.write(home, Report(phase="up", chat_model="planner-8b"))
        assert "planner-8b" == choices(settings)["planner"].model
    assert CHAT_MODEL == served_chat_model(settings)
