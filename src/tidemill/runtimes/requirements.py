"""The distributions a package was made with: the same answer is promised only with the same versions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from tidemill.errors import PackageError

__all__ = ["check_requirements"]

_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*([A-Za-z0-9][A-Za-z0-9.+!_-]*)")


def check_requirements(requirements: Iterable[str], who: str) -> None:
    """See that every `name==version` is installed with exactly that version.

    Raises PackageError naming every distribution that is absent or differs (wanted and found), and every
    entry that does not name one version.
    """
    wrong = []
    wanted = []
    for requirement in requirements:
        match = _PINNED.fullmatch(requirement.strip())
        if match is None:
            wrong.append(f"{requirement!r} does not name one version (name==version)")
            continue
        name, pinned = match.groups()
        try:
            found = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} {pinned} is not installed")
        else:
            if found == pinned:
                continue
            wrong.append(f"{name} is {found}, the package was made with {pinned}")
        wanted.append(f"'{name}=={pinned}'")
    if wrong:
        remedy = f": pip install {' '.join(wanted)}, or package the model anew" if wanted else ""
        raise PackageError(f"{who}: requirements are not met: {'; '.join(wrong)}{remedy}")
