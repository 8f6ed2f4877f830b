"""What asking for callers costs a request: `python -m benchmarks.guard`. Nanoseconds of CPU, the best of seven."""

from __future__ import annotations

import tempfile
import timeit
from pathlib import Path
from time import monotonic, process_time

from tidemill.realtime.request import Request
from tidemill.realtime.security.guard import Guard
from tidemill.realtime.security.keys import create_key
from tidemill.realtime.security.options import AuthOptions, Rate, RateLimits

NUMBER = 100_000
IDENTITY = "spiffe://corp/shop"


class Asked:
    """As much of a request as the gate looks at."""

    __slots__ = ("caller", "fields", "peer", "received_at")

    def __init__(self, fields: dict[bytes, bytes], caller: str = "") -> None:
        self.fields = fields
        self.caller = caller
        self.peer = "127.0.0.1"
        self.received_at = monotonic()

    def header(self, name: bytes) -> bytes | None:
        return self.fields.get(name)


def answer(_: Request) -> None:
    """What stands behind the gate."""


def cost(guard: Guard, fields: dict[bytes, bytes], caller: str = "") -> float:
    """Nanoseconds that the gate adds to a request of a caller it has seen before."""
    asked = Asked(fields, caller)

    def seconds(handler) -> float:
        def ask() -> None:
            asked.caller = caller
            handler(asked)

        ask()
        return min(timeit.repeat(ask, timer=process_time, number=NUMBER, repeat=7)) / NUMBER

    return 1e9 * (seconds(guard.route("POST", "/v2/models/fraud/infer", answer)) - seconds(answer))


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "keys.toml")
        key = create_key(file, "shop", ["infer"]).encode()
        auth = AuthOptions(keys=str(file), certificates={IDENTITY: ("infer:fraud*",)})
        rate = Rate(requests=1e9, rows=1e9)
        bearer = {b"authorization": b"Bearer " + key, b"host": b"localhost"}
        cases = {
            "a key or token as bearer": cost(Guard(auth, None), bearer),
            "a key as X-API-Key": cost(Guard(auth, None), {b"x-api-key": key}),
            "a client certificate": cost(Guard(auth, None), {}, IDENTITY),
            "a bearer, limited": cost(Guard(auth, RateLimits(default=rate)), bearer),
            "a bearer, limited by endpoint too": cost(
                Guard(auth, RateLimits(default=rate, endpoints={"fraud": rate})), bearer
            ),
        }
    for name, nanoseconds in cases.items():
        print(f"{nanoseconds:6.0f}  {name}")


if __name__ == "__main__":
    main()
