"""A version's files as one artifact: equal files are equal bytes, so one hash names a version.

The form is an uncompressed tar of plain files without folders, sorted by name, with nothing of the
time or place of their making; any tar reads it. A file may have more than the 8 GiB that old tars
bear: only then it has a header of the POSIX form.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import PurePosixPath


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the artifact of files by name."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            tar.addfile(entry, io.BytesIO(files[name]))
    return packed.getvalue()


def unpack(artifact: bytes) -> dict[str, bytes]:
    """Return the files of an artifact by name.

    Raises:
        ValueError: it is no tar, or holds more than plain files.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(artifact)) as tar:
            return {entry.name: _read(tar, entry) for entry in tar}
    except tarfile.TarError as error:
        raise ValueError(f"a version's artifact is no tar: {error}") from error


def _read(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry) if entry.isreg() else None
    if file is None or PurePosixPath(entry.name).name != entry.name:
        raise ValueError(
            f"a version's artifact holds {entry.name!r}: only plain files belong there"
        )
    return file.read()


__all__ = ["pack", "unpack"]
