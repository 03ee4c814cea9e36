"""torch.load from a store: all storages of a file are read at once, by all threads, into the memory that the tensors
get. Never runs code that torch.load would not run, and whatever is out of the ordinary is left to torch.load itself.
"""

from __future__ import annotations

import ctypes
import inspect
import pickle
import struct
import zipfile
from typing import Any

import torch

from .errors import CkptError, Invalid
from .file import StoreFile

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_PREFIX = "data/"


def load(file: StoreFile, map_location: Any, weights_only: bool) -> Any:
    """Loads what ``torch.save`` wrote to a file of a checkpoint; arguments and errors are those of ``torch.load``. Of a
    file of safetensors, whose tensors are on no device yet, it takes ``map_location`` for one on the CPU.

    ``torch.load(file)`` is right for every file, but reads one storage after the other. Where the file is an ordinary
    archive, torch's own unpickling (``torch.serialization._load``) is given storages that have been read already.
    """
    if file.name.endswith(".safetensors"):
        where = map_location.get("cpu") if isinstance(map_location, dict) else map_location
        if callable(where):
            raise Invalid(f"map_location of {file.name} is a device, and not a function")
        return file.tensors("cpu" if where is None else where)
    if zipfile.is_zipfile(file):
        file.seek(0)
        try:
            return _load_at_once(file, map_location, weights_only)
        except (CkptError, KeyboardInterrupt, MemoryError):
            raise
        except Exception:
            # An archive or a torch that this doesn't know, or a mistake that torch.load has its own words for.
            pass
    file.seek(0)
    return torch.load(file, map_location=map_location, weights_only=weights_only)


def _load_at_once(file: StoreFile, map_location: Any, weights_only: bool) -> Any:
    from torch import _weights_only_unpickler
    from torch.serialization import _load

    records = _Records(file, is_empty=str(map_location) == "meta")
    given: dict[str, Any] = {"encoding": "utf-8"}
    # Since torch 2.15.
    if "weights_only" in inspect.signature(_load).parameters:
        given["weights_only"] = weights_only
    pickle_module = _weights_only_unpickler if weights_only else pickle
    return _load(records, map_location, pickle_module, overall_storage=None, **given)


class _Records:
    """The records of an archive, as torch's own reader of zips gives them."""

    def __init__(self, file: StoreFile, is_empty: bool) -> None:
        self._file = file
        self._infos: dict[str, zipfile.ZipInfo] = {}
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                # All names begin with the archive's own.
                name = info.filename.partition("/")[2]
                if info.compress_type != zipfile.ZIP_STORED or not name or name in self._infos:
                    raise ValueError(f"{info.filename} is in no archive of torch.save")
                self._infos[name] = info
        if "constants.pkl" in self._infos:
            raise ValueError("TorchScript")
        self._starts = self._find_starts()
        self._storages = {} if is_empty else self._read_storages()

    def _find_starts(self) -> dict[str, int]:
        """Where each record's bytes begin: behind a header of its own, whose length only it tells.

        All are read at once, for what they lie between are chunks that would be decoded for each.
        """
        headers = bytearray(_LOCAL_HEADER.size * len(self._infos))
        held = (ctypes.c_char * len(headers)).from_buffer(headers)
        wanted, starts = [], {}
        for number, info in enumerate(self._infos.values()):
            if info.header_offset + _LOCAL_HEADER.size > self._file.size:
                raise ValueError(f"{info.filename} begins beyond the end")
            at = ctypes.addressof(held) + number * _LOCAL_HEADER.size
            wanted.append((info.header_offset, _LOCAL_HEADER.size, at))
        self._file.read_many(wanted)
        for (name, info), header in zip(self._infos.items(), _LOCAL_HEADER.iter_unpack(headers), strict=True):
            magic, name_bytes, extra_bytes = header
            start = info.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)
            if magic != b"PK\x03\x04" or start + info.file_size > self._file.size:
                raise ValueError(f"{info.filename} is not where the directory says")
            starts[name] = start
        return starts

    def _read_storages(self) -> dict[str, torch.Tensor]:
        names = [name for name in self._infos if name.startswith(_PREFIX)]
        storages = {name: torch.empty(self._infos[name].file_size, dtype=torch.uint8, device="cpu") for name in names}
        self._file.read_many(
            [
                (self.get_record_offset(name), storage.numel(), storage.data_ptr())
                for name, storage in storages.items()
                if storage.numel() > 0
            ]
        )
        return storages

    def has_record(self, name: str) -> bool:
        return name in self._infos

    def get_record(self, name: str) -> bytes:
        found = bytearray(self._infos[name].file_size)
        self._file.pread_into(found, self.get_record_offset(name))
        return bytes(found)

    def get_record_offset(self, name: str) -> int:
        return self._starts[name]

    def get_storage_from_record(self, name: str, count: int, _: Any) -> torch.Tensor:
        storage = self._storages[name]
        if storage.numel() != count:
            raise ValueError(f"{name} has {storage.numel()} bytes, and {count} are asked for")
        return storage

    def serialization_id(self) -> str:
        name = ".data/serialization_id"
        return self.get_record(name).decode() if self.has_record(name) else ""
