"""Which steps of a run a training may store once more. Never lets a new training replace an older one's history."""

from __future__ import annotations

from .errors import Exists, NotFound
from .store import Store


class Steps:
    """The steps that one training stored, or goes over again since it was resumed from an earlier one."""

    def __init__(self, replace: bool) -> None:
        self._all = replace
        self._again: set[tuple[str, int]] = set()

    def begin(self, store: Store, run: str, step: int, resume: str) -> None:
        """The training begins behind ``step``. ``resume`` is how to resume from the run's latest, for the message.

        Raises Exists when it begins at 0 and the run holds the checkpoints of another training.
        """
        if step > 0:
            self.goes_on(store, run, step)
            return
        held = self._held(store, run)
        if not self._all and held - self._again:
            raise Exists(
                f"the run {run} has checkpoints already, up to step {max(held)[1]}, and this training begins at 0: "
                f"resume with {resume}, give it a run of its own, or say replace=True"
            )

    def goes_on(self, store: Store, run: str, step: int) -> None:
        """The training has what the run holds as ``step``, and goes over all behind it again."""
        self._again |= {one for one in self._held(store, run) if one[1] > step}

    def stored(self, run: str, step: int) -> None:
        """This training has stored that step."""
        self._again.add((run, step))

    def may_replace(self, run: str, step: int) -> bool:
        """Whether the checkpoint of that step, if there is one, is to give way."""
        return self._all or (run, step) in self._again

    @staticmethod
    def _held(store: Store, run: str) -> set[tuple[str, int]]:
        try:
            return {(run, one.step) for one in store.checkpoints(run) if one.step is not None}
        except NotFound:
            return set()
