"""Asking somebody else, for so long and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["within"]


def within(seconds: float, ask: Callable[[], None], name: str) -> None:
    """Call `ask` in a thread of this name, and raise what it raises. Raises TimeoutError when the time is over,
    whatever the other side does: a socket's own timeout begins anew with each byte.
    """
    raised: list[BaseException | None] = []

    def asked() -> None:
        try:
            ask()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=asked, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if not raised:
        raise TimeoutError(f"no answer within {seconds:g} s")
    error = raised.pop()
    if error is not None:
        try:
            raise error
        finally:
            del error  # which holds this frame, and so itself, and a socket perhaps
