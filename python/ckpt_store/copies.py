"""Where tensors' bytes are read from: in place on the CPU, through pinned memory from elsewhere; and whole copies for
saving behind a training's back. Never pickles, and never touches a store.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import _core
from ._core import Memory

_ALIGNMENT = 64
_SLOT_BYTES = 4 << 20
"""What the store asks for at once (``FAR_BYTES`` of the core); more is slower by the size of caches, less by Python's
turns."""


def memory_of(storages: Sequence[torch.UntypedStorage]) -> list[Memory]:
    """The bytes of storages, to be read while they are stored; they must not change until then."""
    fetchers: dict[torch.device, _Fetcher] = {}
    found = []
    for storage in storages:
        if storage.device.type == "cpu":
            found.append(Memory.at(storage.data_ptr(), storage.nbytes(), storage))
        elif storage.nbytes() == 0:
            found.append(Memory.of(b""))
        else:
            fetcher = fetchers.get(storage.device)
            if fetcher is None:
                fetcher = fetchers[storage.device] = _Fetcher(storage.device)
            found.append(fetcher.memory(storage))
    return found


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    """A storage as a tensor of bytes, uint8 [nbytes], on its device, without a copy."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _host_memory(size: int, pinned: bool) -> torch.Tensor:
    # Wherever new tensors go by default.
    return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)


_slots: dict[tuple[int, torch.device], torch.Tensor] = {}
"""Host memory of each thread for each device; made once and used again by every save."""


class _Fetcher:
    """Brings pieces of a device's memory to the host, each thread into a slot of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            # What the training has queued so far is what is to be saved.
            self.stream = torch.cuda.Stream(device)
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def memory(self, storage: torch.UntypedStorage) -> Memory:
        source = _bytes_of(storage)

        def fetch(thread: int, offset: int, count: int) -> int:
            slot = _slots.get((thread, self.device))
            if slot is None or slot.numel() < count:
                pinned = self.stream is not None
                slot = _host_memory(max(count, _SLOT_BYTES), pinned)
                _slots[thread, self.device] = slot
            wanted = source[offset : offset + count]
            if self.stream is None:
                slot[:count].copy_(wanted)
            else:
                with torch.cuda.stream(self.stream):
                    slot[:count].copy_(wanted, non_blocking=True)
                    done = self.stream.record_event()
                # Lets go of the GIL, as the copy does not need it.
                done.synchronize()
            return int(slot.data_ptr())

        return Memory.far(storage.nbytes(), fetch)


class Snapshot:
    """Memory for copies of everything that a save needs, used again by the next save; one save at a time.

    Its size is that of the largest state saved so far. For tensors on a GPU it is pinned.
    """

    def __init__(self) -> None:
        self._buffers: dict[bool, torch.Tensor] = {}

    def copy(self, storages: Sequence[torch.UntypedStorage]) -> list[Memory]:
        """Copies storages; when it returns they may change. The answer is good until the next call."""
        places: list[tuple[bool, int]] = []
        sizes = {True: 0, False: 0}
        for storage in storages:
            pinned = storage.device.type == "cuda"
            places.append((pinned, sizes[pinned]))
            sizes[pinned] += -(-storage.nbytes() // _ALIGNMENT) * _ALIGNMENT
        buffers = {pinned: self._buffer(pinned, size) for pinned, size in sizes.items() if size > 0}
        self._fill(storages, places, buffers)
        return [
            Memory.at(buffers[pinned].data_ptr() + offset, storage.nbytes(), buffers[pinned])
            if storage.nbytes() > 0
            else Memory.of(b"")
            for storage, (pinned, offset) in zip(storages, places, strict=True)
        ]

    def _buffer(self, pinned: bool, size: int) -> torch.Tensor:
        buffer = self._buffers.get(pinned)
        if buffer is None or buffer.numel() < size:
            # The old one goes first: there may not be room for both.
            self._buffers.pop(pinned, None)
            buffer = None
            buffer = self._buffers[pinned] = _host_memory(size, pinned)
        return buffer

    @staticmethod
    def _fill(
        storages: Sequence[torch.UntypedStorage],
        places: Sequence[tuple[bool, int]],
        buffers: dict[bool, torch.Tensor],
    ) -> None:
        streams: dict[torch.device, torch.cuda.Stream] = {}
        near = []
        far: dict[torch.cuda.Stream, list[tuple[torch.Tensor, torch.UntypedStorage]]] = {}
        for storage, (pinned, offset) in zip(storages, places, strict=True):
            count = storage.nbytes()
            if count == 0:
                continue
            target = buffers[pinned][offset : offset + count]
            if storage.device.type == "cpu":
                near.append((storage.data_ptr(), target.data_ptr(), count))
            elif pinned:
                stream = streams.get(storage.device)
                if stream is None:
                    stream = streams[storage.device] = torch.cuda.Stream(storage.device)
                    stream.wait_stream(torch.cuda.current_stream(storage.device))
                far.setdefault(stream, []).append((target, storage))
            else:
                target.copy_(_bytes_of(storage))
        for stream, copies in far.items():
            with torch.cuda.stream(stream):
                for target, storage in copies:
                    target.copy_(_bytes_of(storage), non_blocking=True)
        # While the GPU is at it.
        _core.copy(near)
        for stream in far:
            stream.synchronize()
