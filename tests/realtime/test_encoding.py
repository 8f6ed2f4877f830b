"""Content codings: what comes out is what went in, and never more than the bounds."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import InputError, TooLarge, UnsupportedEncoding
from tidemill.realtime.encoding import compress, inflate, preferred_encoding

LIMIT = 8 << 20


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


CODERS = {"gzip": gzip.compress, "zlib": zlib.compress, "raw": raw_deflate}
NAMES = {"gzip": b"gzip", "zlib": b"deflate", "raw": b"deflate"}


@pytest.mark.parametrize("coder", CODERS)
@given(data=st.binary(max_size=2000))
def test_what_a_client_compressed_comes_back(coder: str, data: bytes) -> None:
    assert inflate(CODERS[coder](data), NAMES[coder], LIMIT) == data


@given(data=st.binary(max_size=2000), encoding=st.sampled_from([b"gzip", b"deflate"]))
def test_what_is_compressed_inflates(data: bytes, encoding: bytes) -> None:
    assert inflate(compress(data, encoding), encoding, LIMIT) == data
    assert compress([data[:7], data[7:]], encoding) == compress([data[:7], data[7:]], encoding)
    assert inflate(compress([data[:7], data[7:]], encoding), encoding, LIMIT) == data


def test_raw_deflate_that_looks_like_zlib() -> None:
    """A stored block whose first two bytes pass for zlib's header; the unused header bits are free."""
    for first in range(0, 256, 8):
        for size in range(200):
            stream = bytes([first | 0]) + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
            if first & 15 == 8 and int.from_bytes(stream[:2]) % 31 == 0:
                body = stream + b"a" * size + b"\x03\x00"
                assert zlib.decompress(body, -15) == b"a" * size
                assert inflate(body, b"deflate", LIMIT) == b"a" * size
                return
    pytest.fail("no such stream was found")


def test_members_of_a_gzip_body_are_joined_and_counted() -> None:
    assert inflate(gzip.compress(b"a") + gzip.compress(b"b"), b"gzip", LIMIT) == b"ab"
    with pytest.raises(InputError, match="more than 64 members"):
        inflate(gzip.compress(b"") * 65, b"gzip", LIMIT)


@pytest.mark.parametrize("coder", CODERS)
def test_the_limit_is_exact(coder: str) -> None:
    data = bytes(i * 7 & 255 for i in range(5000))
    body = CODERS[coder](data)
    assert inflate(body, NAMES[coder], 5000) == data
    with pytest.raises(TooLarge, match="more than 4999 bytes"):
        inflate(body, NAMES[coder], 4999)


def test_the_limit_is_of_all_members_together() -> None:
    with pytest.raises(TooLarge):
        inflate(gzip.compress(b"a" * 600) * 2, b"gzip", 1000)


@pytest.mark.parametrize("coder", CODERS)
def test_growth_is_bounded(coder: str) -> None:
    bomb = CODERS[coder](bytes(6 << 20))
    with pytest.raises(TooLarge, match="200 times"):
        inflate(bomb, NAMES[coder], LIMIT)
    small = CODERS[coder](bytes(1 << 20))
    assert len(small) * 200 < 1 << 20
    assert inflate(small, NAMES[coder], LIMIT) == bytes(1 << 20)


@pytest.mark.parametrize("coder", CODERS)
def test_a_cut_body_is_refused_at_every_length(coder: str) -> None:
    body = CODERS[coder](b"some data, some more data")
    for size in range(len(body)):
        with pytest.raises(InputError):
            inflate(body[:size], NAMES[coder], LIMIT)


@pytest.mark.parametrize("coder", ["gzip", "zlib"])
def test_a_changed_byte_is_noticed(coder: str) -> None:
    body = bytearray(CODERS[coder](b"some data, some more data"))
    body[-1] ^= 1
    with pytest.raises(InputError, match="corrupt"):
        inflate(bytes(body), NAMES[coder], LIMIT)


@pytest.mark.parametrize("coder", CODERS)
def test_what_follows_is_refused(coder: str) -> None:
    with pytest.raises(InputError):
        inflate(CODERS[coder](b"data") + b"more", NAMES[coder], LIMIT)


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, gzip", b"gzip,deflate", b"compress", b"\xff"])
def test_other_codings_are_refused(encoding: bytes) -> None:
    with pytest.raises(UnsupportedEncoding, match="send gzip, deflate or identity") as caught:
        inflate(b"", encoding, LIMIT)
    assert caught.value.status == 415


@pytest.mark.parametrize("encoding", [b"identity", b"", b" Identity "])
def test_no_coding(encoding: bytes) -> None:
    assert inflate(b"abc", encoding, 1) == b"abc"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, None),
        (b"", None),
        (b"gzip", b"gzip"),
        (b"GZIP", b"gzip"),
        (b"deflate", b"deflate"),
        (b"gzip, deflate, br", b"gzip"),
        (b"deflate, gzip;q=0.5", b"deflate"),
        (b"gzip;q=0", None),
        (b"gzip;q=0, *", b"deflate"),
        (b"*", b"gzip"),
        (b"*;q=0", None),
        (b"br", None),
        (b"identity", None),
        (b"identity, gzip;q=0.5", None),
        (b"gzip;q=nonsense", None),
        (b"gzip; q=0.8 , identity;q=0.1", b"gzip"),
        (b"\xff, gzip", b"gzip"),
    ],
)
def test_the_preferred_encoding(accept: bytes | None, wanted: bytes | None) -> None:
    assert preferred_encoding(accept) == wanted
