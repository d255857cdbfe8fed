"""What an engine refuses before it loads anything, and the form of a version's artifact."""

import io
import math
import tarfile

import msgspec
import pytest

from consumers.train.engine.check import UnfitError, check
from consumers.train.packing import pack, unpack
from mia_events.learning.job import Hyper, Row
from tests.support.updates import HYPER, job, rows

_FIRST, *_OTHERS = rows(1)


@pytest.mark.parametrize(
    "spoil, why",
    [
        ({"prompt_ids": ()}, "without tokens"),
        ({"token_ids": (), "logprobs": ()}, "without tokens"),
        ({"logprobs": (-1.0,) * 100}, "tokens and 100 log-probabilities"),
        ({"prompt_ids": (1,) * 61}, r"tokens, row_tokens is 64"),
        ({"prompt_ids": (-1,)}, "negative token"),
        ({"advantage": math.nan}, "not finite"),
        ({"reward": math.inf}, "not finite"),
        ({"logprobs": (math.nan,) * len(_FIRST.token_ids)}, "not finite"),
        ({"logprobs": (0.5,) * len(_FIRST.token_ids)}, "above 0"),
    ],
)
def test_a_row_that_would_spoil_an_update_is_named(spoil: dict[str, object], why: str) -> None:
    """Verl would skip the step with a line in its log, or read past an end."""
    bad: Row = msgspec.structs.replace(_FIRST, **spoil)
    work = msgspec.structs.replace(job(), rows=(*_OTHERS, bad))
    with pytest.raises(UnfitError, match=rf"row 7 \(question .*, rollout 0, plan\): .*{why}"):
        check(work)


def test_a_dual_clip_below_one_is_refused() -> None:
    """Verl asserts it in the middle of the update."""
    work = job(msgspec.structs.replace(HYPER, clip_dual=1.0))
    with pytest.raises(UnfitError, match="clip_dual is 1"):
        check(work)


def test_an_ordinary_job_passes() -> None:
    """The same rows, not spoilt."""
    check(job())
    check(job(Hyper()))


def test_equal_files_are_equal_bytes() -> None:
    """Whatever the order in which they were found."""
    assert pack({"a": b"1", "b": b"22"}) == pack({"b": b"22", "a": b"1"})
    assert pack({"a": b"1"}) != pack({"a": b"2"})


def test_an_artifact_gives_its_files_back() -> None:
    """Empty ones too."""
    files = {"adapter_config.json": b"{}", "empty": b"", "weights": bytes(range(256)) * 99}
    assert files == unpack(pack(files))


def test_an_artifact_that_would_write_elsewhere_is_refused() -> None:
    """Versions can come from a backup of somebody else's."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../evil"))
    with pytest.raises(ValueError, match=r"holds '\.\./evil'"):
        unpack(packed.getvalue())
    with pytest.raises(ValueError, match="is no tar"):
        unpack(b"a page of text")
