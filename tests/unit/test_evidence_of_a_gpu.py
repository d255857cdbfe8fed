"""Where there is no GPU, evidence says so and claims nothing."""

from pathlib import Path

import pytest

from ops.evidence import learn8


@pytest.mark.parametrize("program", ["", "#!/bin/sh\nexit 9\n"])
async def test_without_a_gpu_nothing_is_run_and_nothing_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """No driver, or one that finds no device."""
    monkeypatch.setenv("PATH", str(tmp_path))
    if program:
        (tmp_path / "nvidia-smi").write_text(program)
        (tmp_path / "nvidia-smi").chmod(0o755)
    found = await learn8.evidence()
    assert {"run": False, "why": "`nvidia-smi -L` names no GPU"} == found.figures
    assert not found.ok
