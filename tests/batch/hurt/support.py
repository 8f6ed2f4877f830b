"""What the tests of hurt ground share: runs that are cut off, and what a reader sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.batch import ScoreOptions, score
from tidemill.batch.ledger import Sealed
from tidemill.batch.stage import LocalStage

__all__ = ["Cut", "interrupted"]


class Cut(BaseException):
    """What kill -9 is to the code that it ends."""


def interrupted(package: Path, given: str, sink: str, options: ScoreOptions, sealed: int) -> None:
    """A run that is cut off when it is to seal one more than these shards."""
    mark, left = LocalStage.mark, [sealed]

    def dying(stage: LocalStage, marker: Sealed) -> Sealed:
        if not left[0]:
            raise Cut
        left[0] -= 1
        return mark(stage, marker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStage, "mark", dying)
        with pytest.raises(Cut):
            score(package, given, sink, options)
