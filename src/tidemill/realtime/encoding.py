"""Content codings of bodies: inflate requests within bounds, compress answers for clients that ask for it."""

from __future__ import annotations

import zlib

from tidemill.errors import InputError, TooLarge, UnsupportedEncoding

__all__ = ["WORTH_COMPRESSING", "compress", "inflate", "preferred_encoding"]

# Under this size an answer fits one packet, and compressing it only takes time.
WORTH_COMPRESSING = 1400
# Real tensors as JSON shrink to a tenth, all zeros to a few hundredths; what grows more than this is an attack.
MOST_GROWTH = 200
GROWTH_COUNTS_FROM = 1 << 20
MOST_MEMBERS = 64
# Answers are compressed while a client waits.
LEVEL = 1

GZIP, ZLIB, RAW = 31, 15, -15


def inflate(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its Content-Encoding, at most `limit` bytes of it.

    `gzip` (of several members, too), `deflate` (zlib's format, or the raw one that some clients send) and
    `identity`. Raises UnsupportedEncoding for any other or for several at once, TooLarge for more than `limit` bytes
    or more than 200 times its size once over 1 MiB, InputError for data that is corrupt or incomplete.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    bound = min(limit, max(GROWTH_COUNTS_FROM, MOST_GROWTH * len(body)))
    if name in (b"gzip", b"x-gzip"):
        return _gunzip(body, bound, limit)
    if name == b"deflate":
        # RFC 9110 8.4.1.2. Two bytes tell zlib's header, save one raw stream in a thousand: that one is tried again.
        if len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0:
            try:
                return _only(*_member(body, ZLIB, "deflate", bound, limit))
            except InputError as error:
                if isinstance(error, TooLarge):
                    raise
                try:
                    return _only(*_member(body, RAW, "deflate", bound, limit))
                except InputError:
                    raise error from None
        return _only(*_member(body, RAW, "deflate", bound, limit))
    raise UnsupportedEncoding(
        f"Content-Encoding {encoding.decode('latin-1')!r} is not supported: send gzip, deflate or identity, one of them"
    )


def preferred_encoding(accept: bytes | None) -> bytes | None:
    """The coding for an answer to a client that sent this Accept-Encoding: `gzip`, `deflate`, or None for neither."""
    if not accept:
        return None
    weights: dict[str, float] = {}
    for item in accept.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        weights[name] = weight
    anything = weights.get("*", 0.0)
    plain = weights.get("identity", 0.0)
    gzip, deflate = weights.get("gzip", anything), weights.get("deflate", anything)
    if max(gzip, deflate) <= 0.0 or plain > max(gzip, deflate):
        return None
    return b"gzip" if gzip >= deflate else b"deflate"


def compress(body: bytes | list[bytes], encoding: bytes) -> bytes:
    """The body in the coding `gzip` or `deflate` (zlib's format). Equal bodies give equal bytes."""
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP if encoding == b"gzip" else ZLIB)
    pieces = [body] if isinstance(body, bytes) else body
    return b"".join((*map(stream.compress, pieces), stream.flush()))


def _gunzip(body: bytes, bound: int, limit: int) -> bytes:
    members: list[bytes] = []
    rest = body
    while rest:
        if len(members) == MOST_MEMBERS:
            raise InputError(f"the gzip body has more than {MOST_MEMBERS} members")
        data, rest = _member(rest, GZIP, "gzip", bound, limit)
        bound -= len(data)
        members.append(data)
    if not members:
        raise InputError("the gzip body is empty; it has not even a header")
    return members[0] if len(members) == 1 else b"".join(members)


def _member(data: bytes, form: int, name: str, bound: int, limit: int) -> tuple[bytes, bytes]:
    """One compressed stream and what follows it."""
    stream = zlib.decompressobj(form)
    try:
        plain = stream.decompress(data, bound + 1)
    except zlib.error as error:
        raise InputError(f"the {name} body is corrupt: {error}") from None
    if len(plain) > bound:
        raise TooLarge(
            f"the {name} body inflates to more than {limit} bytes, or to more than {MOST_GROWTH} times its size"
        )
    if not stream.eof:
        raise InputError(f"the {name} body is incomplete: its end is missing")
    return plain, stream.unused_data


def _only(plain: bytes, rest: bytes) -> bytes:
    if rest:
        raise InputError(f"the deflate body is followed by {len(rest)} bytes that do not belong to it")
    return plain
