"""An object as torch.save takes it apart: a pickle, and the storages that its tensors lie in. Never copies a tensor,
and never writes anything.

The pickle is byte for byte that of ``torch.save`` (``torch.serialization._save``): tied tensors name one storage, and
views and non-contiguous tensors keep their strides.
"""

from __future__ import annotations

import io
import pickle
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch.serialization import location_tag, normalize_storage_type

PROTOCOL = 2
"""The pickle protocol that torch.save uses."""

ALIGNMENT = 64
"""Bytes; storages begin at a multiple of it, as torch.save has it."""


@dataclass(frozen=True)
class Skeleton:
    """An object without its tensors' bytes."""

    pickle: bytes
    """What becomes ``data.pkl``."""
    storages: tuple[torch.UntypedStorage, ...]
    """What becomes ``data/0``, ``data/1`` and so on."""

    def nbytes(self) -> int:
        """Bytes of all storages."""
        return sum(storage.nbytes() for storage in self.storages)

    def leading_records(self) -> list[tuple[str, bytes]]:
        """The records that stand before the storages, in torch's order."""
        return [
            ("data.pkl", self.pickle),
            (".format_version", b"1"),
            (".storage_alignment", str(ALIGNMENT).encode()),
            ("byteorder", sys.byteorder.encode()),
        ]


class _Pickler(pickle.Pickler):
    """Sets storages aside and writes their number in their place."""

    def __init__(self, to: io.BytesIO) -> None:
        super().__init__(to, protocol=PROTOCOL)
        self.storages: list[torch.UntypedStorage] = []
        self.keys: dict[int, str] = {}
        self.dtypes: dict[int, torch.dtype] = {}

    def persistent_id(self, obj: Any) -> tuple[str, Any, str, str, int] | None:
        if isinstance(obj, torch.storage.TypedStorage):
            storage = obj._untyped_storage
            dtype = obj.dtype
            kind = getattr(torch, obj._pickle_storage_type())
            count = obj._size()
        elif torch.is_storage(obj):
            storage = obj
            dtype = torch.uint8
            kind = normalize_storage_type(type(obj))
            count = storage.nbytes()
        else:
            return None
        self._check_dtype(storage, dtype)
        key = self.keys.get(storage._cdata)
        if key is None:
            key = self.keys[storage._cdata] = str(len(self.storages))
            self.storages.append(storage)
        device = getattr(obj, "_fake_device", None)
        location = location_tag(storage) if device is None else str(device)
        return "storage", kind, key, location, count

    def _check_dtype(self, storage: torch.UntypedStorage, dtype: torch.dtype) -> None:
        """One memory under two types can't be loaded again, so torch.save refuses it too."""
        if storage.device.type == "meta" or storage.data_ptr() == 0:
            return
        if self.dtypes.setdefault(storage.data_ptr(), dtype) != dtype:
            raise RuntimeError("Cannot save multiple tensors or storages that view the same data as different types")


def take_apart(obj: object) -> Skeleton:
    """Takes an object apart.

    Raises:
        pickle.PicklingError, TypeError, AttributeError: for what can't be pickled, as torch.save does.
        RuntimeError: when tensors of different types share memory, as torch.save does.
    """
    to = io.BytesIO()
    pickler = _Pickler(to)
    pickler.dump(obj)
    return Skeleton(to.getvalue(), tuple(pickler.storages))
