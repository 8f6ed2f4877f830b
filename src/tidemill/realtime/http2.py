"""One HTTP/2 connection (RFC 9113): its transport, its time and its end."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from tidemill.realtime.head import Refusal
from tidemill.realtime.http2_frames import MOST_WINDOW, PREFACE, Code, Fault, goaway_frame, ping_frame
from tidemill.realtime.http2_incoming import Incoming
from tidemill.realtime.plane import Plane
from tidemill.realtime.traffic import Meter, unread

__all__ = ["Http2Connection"]

log = logging.getLogger(__name__)

# How long a connection that is done is read and its bytes thrown away, so that no reset overtakes the last answer.
LINGER = 2.0
LINGERING = 256
FAREWELL = b"farewell"
# A client that is told to leave has heard it when it answers a PING, or after so many seconds.
ROUND_TRIP = 1.0


class Http2Connection(Incoming, asyncio.Protocol):
    """The protocol of one client connection. It speaks first, and awaits the client's preface."""

    __slots__ = (
        "_born",
        "_held",
        "_held_at",
        "_held_for",
        "_meter",
        "_preface",
        "_rest",
        "_since",
        "_stalled_at",
        "_stalled_size",
        "_transport",
        "_vigil",
        "_warned_at",
    )

    def __init__(self, plane: Plane, transport: asyncio.Transport, meter: Meter, caller: str, born: float) -> None:
        super().__init__(plane, transport.write, caller, born)
        self._transport = transport
        self._meter = meter
        self._vigil = plane.vigil
        self._preface = PREFACE
        # The beginning of a frame that is not complete.
        self._rest = b""
        self._born = self._since = self._stalled_at = self._held_at = born
        self._held_for = self._warned_at = 0.0
        self._stalled_size = -1
        self._held = False

    # -- transport ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if not self._vigil.stirred:
            self._vigil.stir()
        self._last = monotonic()
        if self._rest:
            data = self._rest + data
        self.open_turn = True
        try:
            if self._preface:
                data = self._without_preface(data)
            position = self._read(data)
            if position or not self._rest:
                self._since = self._last
            self._rest = data[position:]
        except Fault as fault:
            self._end(fault)
        self._flush()

    def _without_preface(self, data: bytes) -> bytes:
        preface = self._preface
        size = min(len(preface), len(data))
        if data[:size] != preface[:size]:
            raise Fault(Code.PROTOCOL_ERROR, "the connection does not begin with the preface of HTTP/2")
        self._preface = preface[size:]
        return data[size:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lingering = True
        self._meter.count(self._plane.counts)
        self._plane.connections.discard(self)
        self._plane.lingering.discard(self)
        self._lose_all()

    def pause_writing(self) -> None:
        """Read no more either: who does not take answers shall not ask."""
        self.clogged = True
        self._stalled_at = monotonic()
        self._stalled_size = -1
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._held_at = self._stalled_at
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.clogged = False
        self.open_turn = True
        for stream in tuple(self.streams.values()):
            stream.invite()
        self._flush()
        if not self.clogged:
            self._read_on()

    def _read_on(self) -> None:
        if self._held:
            self._held = False
            self._held_for += monotonic() - self._held_at
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # -- time -----------------------------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        address = self._transport.get_extra_info("peername")
        return str(address[0]) if isinstance(address, tuple) else ""

    @property
    def outstanding(self) -> int:
        """Requests without a complete answer."""
        return len(self.streams)

    def sweep(self, now: float) -> None:
        """Once a second: end what takes too long."""
        plane = self._plane
        transport = self._transport
        self._meter.count(plane.counts)
        if self not in plane.connections and self not in plane.lingering:
            return  # lost since the sweep began
        if self.clogged or self._lingering or transport.is_closing():
            size = transport.get_write_buffer_size()
            if size != self._stalled_size:
                self._stalled_size = size
                self._stalled_at = self._sent_at = now
            elif now - self._stalled_at > plane.limits.write_timeout:
                transport.abort()
                return
            if self._lingering and not size and now - self._since > LINGER:
                transport.close()
        if self._held or self._lingering:
            return
        self._last = now if self.streams else self._last
        self.open_turn = True
        try:
            self._sweep_reading(now)
            self._sweep_streams(now)
        except Fault as fault:
            self._end(fault)
        self._flush()

    def _sweep_reading(self, now: float) -> None:
        limits = self._plane.limits
        if not self._settled and now - self._born > limits.header_timeout + self._held_for:
            raise Fault(Code.SETTINGS_TIMEOUT, f"SETTINGS were not acknowledged in {limits.header_timeout:g} s")
        if self._block is not None and now - self._block_since > limits.header_timeout + self._held_for:
            raise Fault(Code.ENHANCE_YOUR_CALM, f"a header block took over {limits.header_timeout:g} s")
        if self._rest and now - self._since > self._patience(len(self._rest)):
            raise Fault(Code.ENHANCE_YOUR_CALM, f"a frame took over {limits.body_timeout:g} s")
        idle = limits.keep_alive_timeout if self._heard else limits.header_timeout
        if not self.streams and not self._leaving and now - self._last > idle:
            self._leave()

    def _sweep_streams(self, now: float) -> None:
        limits = self._plane.limits
        for stream in tuple(self.streams.values()):
            taken = now - stream.received_at
            if stream.waiting:
                # Its own window is shut, or the connection's is, for all of them.
                quiet = now - (stream.sent_at if stream.window <= 0 else max(self._sent_at, stream.sent_at))
                if quiet > limits.write_timeout:
                    self._fail(stream, Code.CANCEL)
            elif not (stream.ended or stream.paced) and taken > self._patience(stream.got):
                stream.refuse(Refusal(408, f"the body came too slowly: {stream.got} bytes in {taken:.0f} s"))

    def _patience(self, size: int) -> float:
        limits = self._plane.limits
        return limits.body_timeout + size / limits.min_body_rate + self._held_for

    # -- the end --------------------------------------------------------------------------------------------

    def warn(self) -> None:
        """The server goes away. That is said after an answer, at a moment without requests, or at last by `retire`:
        Python's h2 takes no frame after a GOAWAY, and an idle client of it loses its next request.
        """

    def _say_farewell(self) -> None:
        if not self._warned_at:
            self._warned_at = monotonic()
            ping, goaway = ping_frame(FAREWELL), goaway_frame(MOST_WINDOW, Code.NO_ERROR)
            # Where no client of h2 can be saved, an answer to the PING is to mean that the GOAWAY was read.
            self.put(*((goaway, ping) if self.streams else (ping, goaway)))

    def retire(self, now: float) -> None:
        """Take no more requests once the client has heard that it goes, and close when all are answered.

        A connection so young that its first request may be on the way is left alone.
        """
        if self._leaving or (not self._heard and now - self._born < ROUND_TRIP):
            return
        if not (self.streams or self._warned_at or self._rest or unread(self._transport)):
            self._leave()
            return
        self._say_farewell()
        if self._pong or now - self._warned_at > ROUND_TRIP:
            self._leave()

    def turn_away(self) -> None:
        """The server has all the connections it can hold: say so, and that nothing was done."""
        self._end(Fault(Code.NO_ERROR, f"the server holds its limit of {self._plane.capacity} connections; try again"))
        self._flush()

    def move(self, now: float) -> None:
        """The client, `movable`, is to open another connection. Called again and again until this one is closed."""
        self.retire(now)

    def cut(self) -> int:
        """End at once. Returns how many requests lose their answer."""
        lost = self.outstanding or (1 if self._transport.get_write_buffer_size() else 0)
        self._transport.abort()
        return lost

    def _leave(self) -> None:
        """Say which request was the last one."""
        self._leaving = True
        self.put(goaway_frame(self._last_id, Code.NO_ERROR))

    def _end(self, fault: Fault) -> None:
        """The connection cannot go on."""
        log.debug("HTTP/2 connection ended", extra={"code": fault.code.name, "reason": str(fault)})
        self.put(goaway_frame(self._last_id, fault.code, str(fault).encode()))
        self._leaving = True
        self._lose_all()

    def _linger(self) -> None:
        # A reset would overtake what was sent if bytes came meanwhile.
        plane = self._plane
        self._lingering = True
        self._since = monotonic()
        plane.connections.discard(self)
        crowded = len(plane.lingering) >= LINGERING
        plane.lingering.add(self)
        self._stalled_size = -1
        self._read_on()
        if crowded and not self._transport.can_write_eof():
            self._transport.abort()
        elif crowded or not self._transport.can_write_eof():
            # TLS has no half-close, and a client may wait for the end.
            self._transport.close()
        else:
            self._transport.write_eof()
