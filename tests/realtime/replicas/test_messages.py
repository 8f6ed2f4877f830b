"""What a supervisor and a replica tell each other, and what becomes of what they do not understand."""

import asyncio
import socket
from pathlib import Path

import pytest

from tidemill.errors import ConfigError, IntegrityError, MissingExtra, NotFound, TidemillError
from tidemill.realtime import ServeOptions
from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.models.control import Aliases, Load, State, Traffic, Unload
from tidemill.realtime.models.desired import Desired, Wanted
from tidemill.realtime.replicas.child import told_end
from tidemill.realtime.replicas.messages import (
    Answer,
    Any,
    Apply,
    Ask,
    Channel,
    Drain,
    Known,
    Peers,
    Start,
    failed,
    failures_of,
    not_served,
    raised,
)
from tidemill.realtime.replicas.options import ReplicaOptions, replicas_of
from tidemill.runtimes.memory import free_memory, own_memory

DESIRED = Desired(models=(Wanted(name="m", version="1", directory="/m", digest="0" * 64),), aliases={"m": {"a": "1"}})
EVERY = [
    Start(desired=DESIRED, options=ServeOptions(http=HttpLimits(max_headers=7))),
    Apply(turn=1, desired=DESIRED),
    *(
        Ask(turn=2, change=change)
        for change in (Load(name="m", versions=("1",)), Unload(name="m"), Aliases(name="m", aliases={"a": None}))
    ),
    Ask(turn=3, change=Traffic(name="m")),
    Answer(turn=3, error=failed(NotFound("no"))),
    Known(states=(State(name="m", version="2", state="UNAVAILABLE", reason="é\n"),)),
    Drain(last=True, lame_duck=0.5),
    Peers(ready=3),
]


async def _talk(send: bytes | list[Any]) -> tuple[list[Any], bool]:
    """What comes out at the other end, and whether the channel was closed there."""
    ours, theirs = socket.socketpair()
    got: list[Any] = []
    over = asyncio.Event()
    await Channel.open(theirs, got.append, over.set)
    if isinstance(send, bytes):
        with ours:
            ours.sendall(send)
            closed = True
            try:
                async with asyncio.timeout(5):
                    await over.wait()
            except TimeoutError:
                closed = False
        return got, closed
    mine = await Channel.open(ours, got.append, lambda: None)
    for one in send:
        mine.send(one)
    mine.close()
    await over.wait()
    return got, True


def test_every_message_arrives_as_it_was_sent() -> None:
    got, _ = asyncio.run(_talk(EVERY))
    assert got == EVERY


@pytest.mark.parametrize(
    "odd", [b"{}\n", b'{"is":"none"}\n', b"\xff\n", b'{"is":"drain","last":1}\n', b"[" * 10_000 + b"\n"]
)
def test_a_message_of_another_release_closes_the_channel(odd: bytes) -> None:
    assert asyncio.run(_talk(odd)) == ([], True)


def test_errors_are_of_their_own_class_on_the_other_side() -> None:
    for error in (ConfigError(["a: b", "c: d"]), IntegrityError("changed"), MissingExtra("x", "y"), NotFound("gone")):
        again = raised(failed(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert (again.code, again.exit_code, again.status) == (error.code, error.exit_code, error.status)
    missing = raised(failed(FileNotFoundError(2, "No such file", "/x")))
    assert (type(missing), str(missing), missing.exit_code) == (TidemillError, "/x: No such file", 1)
    failures = {("m", "1"): NotFound("gone")}
    assert failures_of(not_served(failures)).keys() == failures.keys()


def test_how_a_process_ended_is_said_in_words() -> None:
    assert [told_end(code) for code in (0, 3, -9, -200)] == [
        "exit code 0",
        "exit code 3",
        "killed by SIGKILL",
        "killed by signal 200",
    ]


def test_the_number_of_replicas_is_one_or_a_range() -> None:
    assert replicas_of("2") == {"minimum": 2}
    assert replicas_of("1:4") == {"minimum": 1, "maximum": 4}
    for odd in ("", "two", "1:", ":4", "1-4"):
        with pytest.raises(ConfigError, match="expected MIN or MIN:MAX, as 2 or 1:4"):
            replicas_of(odd)
    assert ReplicaOptions(minimum=3, maximum=2).problems() == ["replicas.maximum: must be at least minimum (3), got 2"]


def test_memory_is_what_the_strictest_limit_leaves(tmp_path: Path) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (cgroup / "pod" / "box").mkdir(parents=True)
    assert free_memory(proc, cgroup) is None
    (proc / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 4096 kB\n")
    (proc / "self" / "cgroup").write_text("0::/pod/box\n")
    assert free_memory(proc, cgroup) == 4096 << 10
    for place, limit, used in ((cgroup / "pod", "2000000", 1500000), (cgroup / "pod" / "box", "max", 1)):
        (place / "memory.max").write_text(limit)
        (place / "memory.current").write_text(str(used))
        (place / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert free_memory(proc, cgroup) == 600_000
    assert own_memory(2**30) is None
