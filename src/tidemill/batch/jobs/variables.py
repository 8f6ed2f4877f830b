"""`${NAME}` in what a hook sends: a variable of the environment, read when it is sent. So no file holds a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from tidemill.errors import ConfigError

__all__ = ["filled", "names_secret", "variables"]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET = re.compile(
    r"authorization|cookie|token|secret|passw|credential|signature|api-?key|(^|[-_])(auth|key|pat|pwd)([-_]|\Z)",
    re.IGNORECASE,
)


def variables(text: str) -> list[str]:
    """The variables that a text names."""
    return _VARIABLE.findall(text)


def filled(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with their values in place of the variables, without the line break that secrets often end with.

    Raises ConfigError for a variable that is not set, or that no header or address may hold. It tells no value.
    """
    values: dict[str, str] = {}
    for name in variables(text):
        if name not in environment:
            raise ConfigError(f"the variable {name} is not set")
        values[name] = environment[name].rstrip("\r\n")
        if not values[name].isascii() or not values[name].isprintable():
            raise ConfigError(f"the variable {name} holds characters other than printable ASCII")
    return _VARIABLE.sub(lambda found: values[found[1]], text)


def names_secret(name: str) -> bool:
    """Whether a header, a field of a query or a variable of that name is likely to hold a secret."""
    return _SECRET.search(name) is not None
