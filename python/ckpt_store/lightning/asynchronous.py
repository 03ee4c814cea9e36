"""The plugin that saves beside the training. Never loses an error, and removes nothing before its successor is safe."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal

from ..errors import Busy
from ..store import Store
from . import stub_files
from .plugin import StoreCheckpointIO
from .stub_files import Place

log = logging.getLogger("ckpt_store")


class AsyncStoreCheckpointIO(StoreCheckpointIO):
    """The same, but a save returns once the tensors are copied; hashing, compressing and writing go on beside the
    training.

    The stub appears when its checkpoint is durable, and what ``ModelCheckpoint`` removes is dropped after what was
    saved before. What fails is raised by the next save, or when the training ends, which waits for everything. One save
    is under way at a time, in one copy of the state; the next one waits for it.
    """

    def __init__(
        self,
        store: Store | Place,
        run: str | Callable[[str, Mapping[str, Any]], str] | None = None,
        *,
        on_no_space: Literal["raise", "warn"] = "raise",
        drop_removed: bool = True,
        gc_every: int | None = 10,
    ) -> None:
        super().__init__(store, run, on_no_space=on_no_space, drop_removed=drop_removed, gc_every=gc_every)
        self._thread: ThreadPoolExecutor | None = None
        self._jobs: deque[Future[None]] = deque()
        self._saving: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Place, storage_options: Any | None = None) -> None:
        """Copies a checkpoint and returns. Raises what an earlier save failed by."""
        if self._saving is not None:
            wait([self._saving])
        self._raise()
        about = self._about(checkpoint, path, storage_options)
        run, replace = self._place(about["run"], about["step"], path, stub_files.read(path))
        # At once: with save_last="link" ModelCheckpoint now makes a link in it.
        stub_files.make_directory(path)
        handle = self.store.save_async(checkpoint, **{**about, "run": run, "replace": replace})
        self._saving = self._soon(lambda: self._finish(handle.result, path))

    def load_checkpoint(
        self, path: Place, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As the other, after what is being saved."""
        wait(list(self._jobs))
        return super().load_checkpoint(path, map_location, weights_only)

    def remove_checkpoint(self, path: Place) -> None:
        """As the other, after what is being saved."""
        self._soon(lambda: super(AsyncStoreCheckpointIO, self).remove_checkpoint(path))

    def teardown(self) -> None:
        """Waits for everything, and raises what failed."""
        if self._thread is not None:
            wait(list(self._jobs))
            self._thread.shutdown(wait=True)
            self._thread = None
        super().teardown()
        self._saving = None
        self._raise()

    def _soon(self, job: Callable[[], None]) -> Future[None]:
        if self._thread is None:
            # One: stubs and removals have an order.
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ckpt_store")
        self._jobs.append(self._thread.submit(job))
        return self._jobs[-1]

    def _raise(self) -> None:
        """Raises the first failure of what is done, once."""
        failure: BaseException | None = None
        while self._jobs and self._jobs[0].done():
            error = self._jobs.popleft().exception()
            if error is not None and failure is not None:
                log.error("another checkpoint could not be saved: %s", error)
            failure = failure or error
        if failure is not None:
            raise failure

    def __getstate__(self) -> dict[str, Any]:
        if self._jobs and not self._jobs[-1].done():
            raise Busy("a checkpoint is being saved: wait for teardown before this is pickled")
        return {**super().__getstate__(), "_thread": None, "_jobs": deque(), "_saving": None}
