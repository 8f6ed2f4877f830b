"""Header blocks, both ways: HPACK (RFC 7541), and what a request's headers must be (RFC 9113 section 8).

Blocks we send touch no dynamic table, so their bytes are the same on every stream and connection and are kept.
Blocks we read are kept, with the head they mean, for as long as the client's dynamic table stays as it is.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from tidemill.realtime.head import METHODS, Head, Refusal, join_repeated
from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.request import Header

__all__ = [
    "CONTINUE",
    "NO_TABLE",
    "TABLE_SIZE",
    "BadBlock",
    "HeaderReader",
    "Http2Head",
    "Malformed",
    "block",
    "field",
    "read_head",
]

STATIC = HeaderTable.STATIC_TABLE
STATIC_SIZE = len(STATIC)
TABLE_SIZE = 4096
"""Bytes of the dynamic table that a client may fill: what every client starts with."""
ENTRY = 32  # what each entry counts beside its text
NO_TABLE = b"\x20"
"""Begins the first block after a client shrank our dynamic table: it has no size, and never again has one."""

# Blocks kept of one connection, and how long one may be.
KNOWN_BLOCKS = 32
KNOWN_BLOCK_BYTES = 512
KNOWN_LIST_BYTES = 2048
MOST_CODED = 256
CODED: dict[bytes, bytes] = {}
MOST_INTEGER = 1 << 28

NAMES: dict[bytes, int] = {}
for _index, (_name, _) in enumerate(STATIC, 1):
    NAMES.setdefault(_name, _index)
PAIRS = {pair: index for index, pair in enumerate(STATIC, 1) if pair[1]}

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# Visible, space, tab and what is beyond ASCII; nothing blank at either end.
VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
TARGET = re.compile(rb"[!-~\x80-\xff]+")
# They speak of a connection, and an HTTP/2 one has frames for that.
FORBIDDEN = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
GRPC = re.compile(rb"application/grpc(?:[+;].*)?")


class BadBlock(Exception):
    """A block that cannot be read, or is far too large: the connection's tables are no longer in step."""


class Malformed(Exception):
    """A request that is none by RFC 9113 section 8.1.1: its stream ends."""


class Http2Head(Head):
    """The head of a request that came over HTTP/2."""

    __slots__ = ("declared", "grpc")

    def __init__(self, method: str, target: bytes, headers: tuple[Header, ...], fields: dict[bytes, bytes]) -> None:
        """Raises Refusal for a target that names no path."""
        super().__init__(method, target, headers, fields, http11=True, keep_alive=True, upgrade=False)
        self.declared = self.length if b"content-length" in fields else -1
        """What Content-Length says; -1 without one."""
        self.grpc = method == "POST" and GRPC.fullmatch(fields.get(b"content-type", b"")) is not None


# -- out ----------------------------------------------------------------------------------------------------


def block(headers: Iterable[Header]) -> bytes:
    """Encode headers (names in lower case, pseudo ones first) without use of a dynamic table."""
    return b"".join([field(name, value) for name, value in headers])


def field(name: bytes, value: bytes) -> bytes:
    """Encode one header."""
    index = PAIRS.get((name, value))
    if index is not None:
        return bytes((0x80 | index,))
    index = NAMES.get(name)
    if index is None:
        return b"\0" + _string(name) + _string(value)
    return _integer(index, 4, 0) + _string(value)


def _string(text: bytes) -> bytes:
    return _integer(len(text), 7, 0) + text


def _integer(value: int, bits: int, first: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    out = bytearray((first | most,))
    value -= most
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


CONTINUE = field(b":status", b"100")


# -- in -----------------------------------------------------------------------------------------------------


class HeaderReader:
    """The decoding side of one connection."""

    __slots__ = ("_entries", "_limits", "_most", "_moves", "_size", "known")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._entries: deque[Header] = deque()
        self._size = self._moves = 0
        self._most = TABLE_SIZE
        self.known: dict[bytes, Http2Head] = {}
        """What these very bytes mean as long as the table stays as it is."""

    def head(self, data: bytes) -> Http2Head:
        """The request that a block means which is not known. Raises BadBlock, Malformed or Refusal."""
        moves = self._moves
        headers, size = self.decode(data)
        if size > self._limits.max_header_bytes:
            raise Refusal(431, f"the request head is over {self._limits.max_header_bytes} bytes")
        head = read_head(headers, self._limits)
        if moves == self._moves and len(data) <= KNOWN_BLOCK_BYTES and size <= KNOWN_LIST_BYTES:
            if len(self.known) >= KNOWN_BLOCKS:
                self.known.clear()
            self.known[data] = head
        return head

    def decode(self, data: bytes) -> tuple[list[Header], int]:
        """The headers of a block, and their size as RFC 9113 6.5.2 counts it. Raises BadBlock."""
        headers: list[Header] = []
        size = position = 0
        end = len(data)
        # More than is taken is still read, so that the tables stay in step and the request can be answered.
        most = 2 * self._limits.max_header_bytes + TABLE_SIZE
        try:
            while position < end:
                first = data[position]
                if first & 0x80:
                    index, position = _read_integer(data, position, 7)
                    header = self._entry(index)
                elif first & 0xE0 == 0x20:
                    if headers:
                        raise BadBlock("a table size update after a header")
                    most_now, position = _read_integer(data, position, 5)
                    self._resize(most_now)
                    continue
                else:
                    indexed = first & 0x40
                    index, position = _read_integer(data, position, 6 if indexed else 4)
                    if index:
                        name = self._entry(index)[0]
                    else:
                        name, position = _read_string(data, position)
                    value, position = _read_string(data, position)
                    header = (name, value)
                    if indexed:
                        self._add(header)
                size += len(header[0]) + len(header[1]) + ENTRY
                if size > most:
                    raise BadBlock(f"a header list of over {most} bytes")
                headers.append(header)
        except IndexError:
            raise BadBlock("the block ends in the middle of a header") from None
        except HPACKError as error:
            raise BadBlock(str(error)) from None
        return headers, size

    def _entry(self, index: int) -> Header:
        if 0 < index <= STATIC_SIZE:
            return STATIC[index - 1]
        index -= STATIC_SIZE + 1
        if not 0 <= index < len(self._entries):
            raise BadBlock("an index that neither table has")
        return self._entries[index]

    def _add(self, header: Header) -> None:
        self._moved()
        self._entries.appendleft(header)
        self._size += len(header[0]) + len(header[1]) + ENTRY
        self._shrink()

    def _resize(self, most: int) -> None:
        if most > TABLE_SIZE:
            raise BadBlock(f"a table of {most} bytes, where {TABLE_SIZE} are allowed")
        self._moved()
        self._most = most
        self._shrink()

    def _moved(self) -> None:
        self._moves += 1
        self.known.clear()

    def _shrink(self) -> None:
        while self._size > self._most:
            name, value = self._entries.pop()
            self._size -= len(name) + len(value) + ENTRY


def _read_integer(data: bytes, position: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value = data[position] & most
    position += 1
    if value < most:
        return value, position
    shift = 0
    while True:
        byte = data[position]
        position += 1
        value += (byte & 127) << shift
        if value > MOST_INTEGER or shift > 28:
            raise BadBlock("an integer of unreasonable size")
        if byte < 128:
            return value, position
        shift += 7


def _read_string(data: bytes, position: int) -> tuple[bytes, int]:
    coded = data[position] & 0x80
    length, position = _read_integer(data, position, 7)
    stop = position + length
    text = data[position:stop]
    if stop > len(data):
        raise BadBlock("a string is longer than its block")
    return (_decoded(text) if coded else text), stop


def _decoded(text: bytes) -> bytes:
    """Undo the Huffman code; the same few short strings come again and again."""
    plain = CODED.get(text)
    if plain is None:
        plain = decode_huffman(text) if text else b""
        if len(text) <= MOST_CODED:
            if len(CODED) >= MOST_CODED:
                CODED.clear()
            CODED[text] = plain
    return plain


def read_head(headers: list[Header], limits: HttpLimits) -> Http2Head:
    """Build the head of a request. Raises Malformed, or Refusal with the status to answer."""
    pseudo: dict[bytes, bytes] = {}
    plain: list[Header] = []
    crumbs: list[bytes] = []
    for header in headers:
        name, value = header
        if name[:1] == b":":
            if plain or crumbs or name in pseudo or name not in PSEUDO:
                raise Malformed(f"pseudo-header {name!r} is unknown, repeated or after another header")
            pseudo[name] = value
        elif name == b"cookie":
            crumbs.append(value)
        else:
            plain.append(header)
        _check_field(name, value)
    if crumbs:
        plain.append((b"cookie", b"; ".join(crumbs)))
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not METHOD.fullmatch(method):
        raise Malformed(":method is missing or no token")
    if method == b"CONNECT":
        raise Refusal(501, "CONNECT is not supported: this is not a proxy")
    if not pseudo.get(b":scheme") or not target:
        raise Malformed(":scheme or :path is missing or empty")
    if target[0] != 0x2F and not (target == b"*" and method == b"OPTIONS"):
        raise Malformed(f":path {target!r} is no path")
    if len(target) > limits.max_target_bytes:
        raise Refusal(414, f"the request target has {len(target)} bytes; at most {limits.max_target_bytes} are taken")
    if not TARGET.fullmatch(target):
        raise Malformed(":path holds a blank or control character")
    if len(plain) > limits.max_headers:
        raise Refusal(431, f"the request has {len(plain)} headers; at most {limits.max_headers} are taken")
    return _head(method, target, plain, pseudo.get(b":authority"), limits)


def _head(method: bytes, target: bytes, plain: list[Header], authority: bytes | None, limits: HttpLimits) -> Http2Head:
    fields = dict(plain)
    host = fields.get(b"host")
    if authority is not None:
        if host is None:
            plain.insert(0, (b"host", authority))
            fields[b"host"] = authority
        elif host != authority:
            raise Malformed("Host is not :authority")
    if len(fields) != len(plain):
        try:
            fields = join_repeated(plain)
        except Refusal as refusal:
            raise Malformed(str(refusal)) from None
    if not fields.get(b"host"):
        raise Refusal(400, "neither :authority nor Host names the server")
    length = fields.get(b"content-length")
    if length is not None:
        if not length.isdigit() or len(length) > 18:
            raise Malformed(f"Content-Length {length[:32]!r} is no length")
        if int(length) > limits.max_body_bytes:
            most = limits.max_body_bytes
            raise Refusal(413, f"the body has {int(length)} bytes (Content-Length); at most {most} are taken")
    if b"expect" in fields and fields[b"expect"].lower() != b"100-continue":
        raise Refusal(417, "the only expectation that can be met is 100-continue")
    return Http2Head(METHODS.get(method) or method.decode("ascii"), target, tuple(plain), fields)


def _check_field(name: bytes, value: bytes) -> None:
    """RFC 9113 8.2.1 and 8.2.2. Raises Malformed."""
    if not TOKEN.fullmatch(name, 1 if name[:1] == b":" else 0):
        raise Malformed(f"header name {name[:64]!r} holds what no name may, or a capital")
    if not VALUE.fullmatch(value):
        raise Malformed(f"header {name[:64]!r} holds a control character or begins or ends with a blank")
    if name in FORBIDDEN or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed(f"header {name.decode('latin-1')!r} does not belong into HTTP/2")
