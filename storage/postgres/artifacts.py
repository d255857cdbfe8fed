"""Artifacts by content hash: small ones in the database, larger ones in a folder."""

from __future__ import annotations

import asyncio
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from storage.postgres.pool import answering

if TYPE_CHECKING:
    import asyncpg

IN_DATABASE: Final = 1 << 20
_KEEP = (
    "INSERT INTO artifact (sha256, size, bytes, uri) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
)
_FIND = "SELECT bytes, uri FROM artifact WHERE sha256 = $1"


class PostgresArtifacts:
    """The `Artifacts` port. A file is on disk, under its name, before its row is committed."""

    def __init__(self, pool: asyncpg.Pool, folder: Path) -> None:
        self._pool = pool
        self._folder = folder

    async def put(self, data: bytes) -> str:
        """See the port."""
        digest = await asyncio.to_thread(sha256, data)
        inline = data if len(data) <= IN_DATABASE else None
        uri = None
        if inline is None:
            uri = await asyncio.to_thread(self._write, digest.hexdigest(), data)
        async with answering():
            await self._pool.execute(_KEEP, digest.digest(), len(data), inline, uri)
        return digest.hexdigest()

    async def get(self, sha256_hex: str) -> bytes:
        """See the port."""
        async with answering():
            row = await self._pool.fetchrow(_FIND, bytes.fromhex(sha256_hex))
        if row is None:
            message = f"no artifact {sha256_hex}"
            raise LookupError(message)
        stored: bytes | None = row["bytes"]
        data = await self._read(sha256_hex, row["uri"]) if stored is None else stored
        if (await asyncio.to_thread(sha256, data)).hexdigest() != sha256_hex:
            message = f"artifact {sha256_hex} is damaged: restore it from a backup"
            raise ValueError(message)
        return data

    async def _read(self, sha256_hex: str, uri: str) -> bytes:
        try:
            return await asyncio.to_thread((self._folder / uri).read_bytes)
        except FileNotFoundError as error:
            message = f"artifact {sha256_hex} is not in {self._folder}: restore it from a backup"
            raise LookupError(message) from error

    def _write(self, name: str, data: bytes) -> str:
        """Write, sync, rename, sync the folder: the name exists only with all its bytes."""
        relative = f"{name[:2]}/{name}"
        target = self._folder / relative
        if target.exists():
            return relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).rename(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return relative


__all__ = ["IN_DATABASE", "PostgresArtifacts"]
