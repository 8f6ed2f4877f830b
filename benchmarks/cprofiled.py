"""Runs the command `tidemill` with every thread under cProfile. `python cprofiled.py STATS ARGUMENT…`."""

import cProfile
import pstats
import sys
import threading
from typing import Any

from tidemill.cli import main


def run(stats: str, *arguments: str) -> None:
    """The command, and at its end (a signal that it heeds, too) the merged statistics in the file `stats`."""
    profiles = [cProfile.Profile()]

    def follow(*_: Any) -> None:
        # Called for the first event of a new thread; from then on the thread's own profile takes its place.
        profiles.append(cProfile.Profile())
        profiles[-1].enable()

    sys.argv = ["tidemill", *arguments]
    threading.setprofile(follow)
    profiles[0].enable()
    try:
        main()
    finally:
        profiles[0].disable()
        merged = pstats.Stats(profiles[0])
        for one in profiles[1:]:
            merged.add(one)
        merged.dump_stats(stats)


if __name__ == "__main__":
    run(*sys.argv[1:])
