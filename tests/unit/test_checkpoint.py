"""A version is exported as a plain checkpoint, and compared with another, without torch."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from consumers.train.packing import pack
from ops.errors import Refused
from ops.evidence.adapters import lora_config, random_adapter, safetensors
from ops.serving.checkpoint import export_merged
from ops.serving.compare import differences, weights_apart
from ops.serving.folders import unpack_adapter
from ops.serving.lora import Adapter, distance
from ops.serving.weights import Weights, write_weights

_Q = "model.layers.0.self_attn.q_proj.weight"
_NORM = "model.norm.weight"
_VALUES = np.array([1.5, -2.0, 0.25], dtype=np.float32)


def _base(folder: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """A base model of one layer, hidden size 4, with a tokenizer and a config."""
    chance = np.random.default_rng(0)
    tensors = {
        _Q: chance.standard_normal((4, 4)).astype(np.float32),
        _NORM: np.ones(4, dtype=np.float32),
    }
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    (folder / "config.json").write_text('{"hidden_size": 4, "torch_dtype": "bfloat16"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "weights.bin").write_bytes(b"old")
    return tensors


def _adapter(folder: Path, seed: int = 1) -> Path:
    unpack_adapter(random_adapter(seed, rank=2), folder)
    return folder


def test_an_adapter_is_merged_into_its_base(tmp_path: Path) -> None:
    """W + alpha / r * B A where the adapter is, the base's own weights elsewhere; all fp32."""
    tensors = _base(tmp_path / "base")
    folder = _adapter(tmp_path / "planner@v1-0123456789ab")
    export_merged(tmp_path / "base", folder, tmp_path / "out")
    parts = Weights(folder / "adapter_model.safetensors")
    at = "base_model.model.model.layers.0.self_attn.q_proj"
    expected = tensors[_Q] + 2.0 * (
        parts[f"{at}.lora_B.weight"] @ parts[f"{at}.lora_A.weight"]
    )  # lora_alpha 4 over rank 2
    merged = Weights(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(merged[_Q], expected, rtol=1e-6)
    np.testing.assert_array_equal(merged[_NORM], tensors[_NORM])
    assert "float32" == json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} == {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_the_base_alone_is_exported_as_it_is(tmp_path: Path) -> None:
    """Version 0 has no adapter."""
    tensors = _base(tmp_path / "base")
    export_merged(tmp_path / "base", None, tmp_path / "out")
    np.testing.assert_array_equal(Weights(tmp_path / "out/model.safetensors")[_Q], tensors[_Q])


def test_an_adapter_of_another_model_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """Half a checkpoint would be taken for one."""
    _base(tmp_path / "base")
    unpack_adapter(random_adapter(1, layers=2), tmp_path / "two")
    with pytest.raises(Refused, match=r"no model\.layers\.1\.self_attn"):
        export_merged(tmp_path / "base", tmp_path / "two", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_written_into(tmp_path: Path) -> None:
    """It may hold another version."""
    _base(tmp_path / "base")
    (tmp_path / "out").mkdir()
    with pytest.raises(Refused, match="there already"):
        export_merged(tmp_path / "base", None, tmp_path / "out")


def test_an_adapter_that_is_more_than_lora_is_refused(tmp_path: Path) -> None:
    """Its change could not be computed here, and a wrong checkpoint is worse than none."""
    config = json.loads(lora_config(2, 4, ("q_proj",))) | {"use_dora": True}
    files = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": safetensors({}),
    }
    unpack_adapter(pack(files), tmp_path / "dora")
    with pytest.raises(ValueError, match="no plain LoRA"):
        Adapter(tmp_path / "dora")


def test_versions_are_as_far_apart_as_their_changes(tmp_path: Path) -> None:
    """From the base it is the change itself; a version is at no distance from itself."""
    one = Adapter(_adapter(tmp_path / "one", 1))
    other = Adapter(_adapter(tmp_path / "other", 2))
    change = one.change(_Q)
    norm, most = distance(None, one)[_Q]
    assert float(np.linalg.norm(change)) == pytest.approx(norm)
    assert float(np.abs(change).max()) == pytest.approx(most)
    assert {} == distance(one, one)
    assert {_Q} == distance(one, other).keys()
    between = float(np.linalg.norm(other.change(_Q) - change))
    assert between == pytest.approx(distance(one, other)[_Q][0])


def test_the_farthest_weights_are_named(tmp_path: Path) -> None:
    """A summary of many weights: their number, the norm over all, where it comes from."""
    one = Adapter(_adapter(tmp_path / "one", 1))
    apart = weights_apart(None, one)
    assert (1, [_Q]) == (apart["differ"], list(apart["farthest"]))
    assert float(np.linalg.norm(one.change(_Q))) == pytest.approx(apart["norm"])
    assert {"differ": 0, "norm": 0.0, "largest": 0.0, "farthest": {}} == weights_apart(None, None)


def test_records_are_compared_key_by_key() -> None:
    """Equal keys are not shown; what one lacks is None."""
    one = {"job": {"hyper": {"lr": 1e-6, "kl": 0.0}, "seed": 1}}
    other = {"job": {"hyper": {"lr": 1e-5, "kl": 0.0}, "seed": 1}, "seconds": 2}
    assert {"job.hyper.lr": [1e-6, 1e-5], "seconds": [None, 2]} == differences(one, other)


@pytest.mark.parametrize("name, kind", [("F16", "<f2"), ("F32", "<f4"), ("F64", "<f8")])
def test_weights_are_read_as_fp32(tmp_path: Path, name: str, kind: str) -> None:
    """Whatever float they were kept in."""
    _raw(tmp_path / "w", name, _VALUES.astype(kind).tobytes())
    np.testing.assert_array_equal(
        Weights(tmp_path / "w")["w"], np.array([1.5, -2.0, 0.25], dtype=np.float32)
    )


def test_bfloat16_is_the_upper_half_of_an_fp32(tmp_path: Path) -> None:
    """Numpy has no such type."""
    halves = (_VALUES.view(np.uint32) >> 16).astype("<u2")
    _raw(tmp_path / "w", "BF16", halves.tobytes())
    np.testing.assert_array_equal(
        Weights(tmp_path / "w")["w"], np.array([1.5, -2.0, 0.25], dtype=np.float32)
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """One tensor at a time, in an order of names."""
    tensors = {"b": np.ones((2, 3), np.float32), "a": np.zeros((0, 2), np.float32)}
    write_weights(tmp_path / "w", {k: v.shape for k, v in tensors.items()}, tensors.__getitem__)
    found = Weights(tmp_path / "w")
    assert {"a": (0, 2), "b": (2, 3)} == found.shapes
    np.testing.assert_array_equal(found["b"], tensors["b"])


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """Its first bytes would be taken for a length of petabytes."""
    (tmp_path / "w").write_bytes(b"GGUF" * 8)
    with pytest.raises(ValueError, match="no safetensors"):
        Weights(tmp_path / "w")


def _raw(path: Path, kind: str, data: bytes) -> None:
    head = json.dumps({"w": {"dtype": kind, "shape": [3], "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
