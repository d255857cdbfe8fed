"""The settings for GPUs that the documentation shows are settings."""

from pathlib import Path

from ops.models import choices, endpoints, needs_embedded, planner_replicas
from ops.settings import load_settings

_PROFILE = Path(__file__).parents[2] / "docs" / "gpu.toml"


def test_the_profile_for_gpus_needs_nothing_embedded() -> None:
    """Every role has an endpoint and a model; training is by several processes on GPUs."""
    settings = load_settings(_PROFILE, {})
    assert not needs_embedded(settings)
    models = {role: choice.model for role, choice in choices(settings).items()}
    assert ("Qwen/Qwen3-8B", "Qwen/Qwen3-32B") == (models["planner"], models["router"])
    assert {"planner", "executor", "judge"} <= set(endpoints(settings, {}))
    assert 2 == len(planner_replicas(settings, {}))
    assert ("cuda", 4, "bf16") == (
        settings.training.device,
        settings.training.processes,
        settings.training.hyper.compute,
    )


def test_its_adapters_fit_its_servers() -> None:
    """A rank above what a server takes would be refused when a run is made."""
    settings = load_settings(_PROFILE, {})
    assert settings.training.hyper.lora_rank <= settings.serving.max_lora_rank
