"""The package's core, in Rust. Values come as plain dicts and tuples; the package around it makes dataclasses of them."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, final

__all__ = ["Memory", "Part", "Reader", "Store", "copy"]

@final
class Memory:
    """Bytes in memory that can become a file of a checkpoint."""

    @staticmethod
    def at(address: int, len: int, owner: object) -> Memory: ...
    @staticmethod
    def of(bytes: bytes) -> Memory: ...
    @staticmethod
    def far(len: int, fetch: Callable[[int, int, int], int]) -> Memory: ...
    @staticmethod
    def joined(parts: Sequence[Memory]) -> Memory: ...
    def __len__(self) -> int: ...

@final
class Reader:
    """A checkpoint that is open for reading; what it needs stays until it is gone."""

    def entry(self) -> dict[str, Any]: ...
    def files(self) -> list[dict[str, Any]]: ...
    def tensors(self) -> list[dict[str, Any]]: ...
    def read_at(self, file: int, offset: int, address: int, len: int) -> int: ...
    def read_many(self, wanted: Sequence[tuple[int, int, int, int]]) -> None: ...

@final
class Part:
    """What one of several processes stored of a checkpoint; what it needs stays until it is gone."""

    def to_bytes(self) -> bytes: ...

@final
class Store:
    """A store."""

    def __new__(cls, path: str | PathLike[str], create: bool) -> Store: ...
    def put(
        self,
        paths: Sequence[str | PathLike[str]],
        given: Sequence[tuple[str, int, Memory]],
        root: str | None,
        run: str,
        step: int | None,
        metrics: dict[str, float],
        meta: dict[str, str],
        tags: set[str],
        replace: bool,
        gc: bool,
    ) -> dict[str, Any]: ...
    def prepare(self, given: Sequence[tuple[str, int, Memory]]) -> Part: ...
    def commit_parts(
        self,
        parts: Sequence[bytes],
        given: Sequence[tuple[str, int, Memory]],
        root: str | None,
        run: str,
        step: int | None,
        metrics: dict[str, float],
        meta: dict[str, str],
        tags: set[str],
        replace: bool,
    ) -> dict[str, Any]: ...
    def torch_archive(self, records: Sequence[tuple[str, Memory]]) -> Memory: ...
    def open(self, reference: str) -> Reader: ...
    def get(self, reference: str, destination: str | PathLike[str], files: Sequence[str], force: bool) -> Path: ...
    def checkpoints(self, run: str | None) -> list[dict[str, Any]]: ...
    def resolve(self, reference: str) -> dict[str, Any]: ...
    def remove(self, references: Sequence[str]) -> list[dict[str, Any]]: ...
    def tag(self, reference: str, name: str) -> dict[str, Any]: ...
    def untag(self, reference: str, name: str | None) -> dict[str, Any]: ...
    def pin(self, reference: str, pinned: bool) -> dict[str, Any]: ...
    def gc(
        self,
        runs: str | None,
        last: int | None,
        best: tuple[int, str, str | None] | None,
        every: int | None,
        within_ms: int | None,
        dry_run: bool,
    ) -> dict[str, Any]: ...
    def stats(self) -> dict[str, Any]: ...
    def verify(self, reference: str | None, quick: bool) -> dict[str, Any]: ...

def copy(copies: Sequence[tuple[int, int, int]]) -> None:
    """Copies memory: from, to, bytes of each. By all threads, with the GIL released."""
