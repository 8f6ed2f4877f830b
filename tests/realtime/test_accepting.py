"""Several acceptors of one socket: they take turns by what they hold, and none waits for one that hangs."""

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from tidemill.realtime.accepting import Acceptor, Seats
from tidemill.realtime.http import create_listener

MANY = 24


class Taker:
    """Takes connections and keeps them."""

    def __init__(self, listener: socket.socket, seats: Seats) -> None:
        self.held: list[socket.socket] = []
        copy = listener.dup()
        copy.setblocking(False)
        self.acceptor = Acceptor(copy, self.held.append, lambda: len(self.held), seats)

    def close(self) -> None:
        self.acceptor.close().close()
        for one in self.held:
            one.close()


@contextmanager
def seats(places: int) -> Iterator[list[Seats]]:
    fd = Seats.create(places)
    try:
        yield [Seats(fd, place) for place in range(places)]
    finally:
        os.close(fd)


async def _connect(listener: socket.socket, many: int) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(many):
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        clients.append(client)
    return clients


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition did not come to hold")


def test_connections_are_shared_by_number() -> None:
    async def run() -> list[int]:
        with closing(create_listener("127.0.0.1", 0)) as listener, seats(3) as places:
            takers = [Taker(listener, one) for one in places]
            clients = await _connect(listener, MANY)
            await _until(lambda: sum(len(t.held) for t in takers) == MANY)
            counts = [len(t.held) for t in takers]
            for one in (*takers, *clients):
                one.close()
            return counts

    assert asyncio.run(run()) == [MANY // 3] * 3


def test_one_that_takes_none_holds_up_nobody() -> None:
    async def run() -> int:
        with closing(create_listener("127.0.0.1", 0)) as listener, seats(2) as (mine, other):
            other.hold(0)  # it hangs: it says that it accepts and does not
            taker = Taker(listener, mine)
            clients = await _connect(listener, MANY)
            await _until(lambda: len(taker.held) == MANY)
            for one in (taker, *clients):
                one.close()
            return MANY

    assert asyncio.run(run()) == MANY


def test_while_it_pauses_others_take_all_and_are_not_waited_for() -> None:
    async def run() -> tuple[int, int]:
        with closing(create_listener("127.0.0.1", 0)) as listener, seats(2) as (one, two):
            first, second = Taker(listener, one), Taker(listener, two)
            first.acceptor.pause()
            assert two.others is False
            clients = await _connect(listener, MANY)
            await _until(lambda: len(second.held) == MANY)
            first.acceptor.resume()
            clients += await _connect(listener, 4)
            await _until(lambda: len(first.held) == 4)
            found = len(first.held), len(second.held)
            for each in (first, second, *clients):
                each.close()
            return found

    assert asyncio.run(run()) == (4, MANY)


def test_a_place_that_is_cleared_counts_no_more() -> None:
    fd = Seats.create(2)
    try:
        mine, other = Seats(fd, 0), Seats(fd, 1)
        other.hold(0)
        mine.hold(5)
        assert (mine.others, mine.fewest) == (True, False)
        Seats.clear(fd, 1)
        assert (mine.others, mine.fewest) == (False, True)
    finally:
        os.close(fd)


def test_too_many_is_a_quarter_above_the_share_of_all() -> None:
    with seats(3) as (mine, two, three):
        assert mine.surplus == 0, "it does not accept"
        mine.hold(100)
        assert mine.surplus == 0, "nobody else accepts"
        two.hold(0)
        assert mine.surplus == 50
        three.hold(50)
        assert mine.surplus == 50
        assert (two.surplus, three.surplus) == (0, 0)
        three.leave()
        for held, surplus in ((1, 0), (3, 0), (4, 2), (10, 5)):
            mine.hold(held)
            assert mine.surplus == surplus, held


def test_without_open_files_it_waits_and_goes_on() -> None:
    async def run() -> int:
        with closing(create_listener("127.0.0.1", 0)) as listener, seats(1) as (mine,):
            taker = Taker(listener, mine)
            clients = await _connect(listener, 1)
            await _until(lambda: len(taker.held) == 1)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            client = socket.socket()
            client.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
            try:
                await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
                await asyncio.sleep(0.3)
                assert len(taker.held) == 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await _until(lambda: len(taker.held) == 2)
            for one in (taker, client, *clients):
                one.close()
            return 2

    assert asyncio.run(run()) == 2
