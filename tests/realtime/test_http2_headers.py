"""The header codec against another one (hpack), and what it keeps."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.realtime.head import Refusal
from tidemill.realtime.http2_headers import BadBlock, HeaderReader, Malformed, block, read_head
from tidemill.realtime.limits import HttpLimits

LIMITS = HttpLimits()
REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"test")]

names = st.sampled_from([b":path", b":method", b"content-type", b"x-a", b"x-b", b"cookie", b"te"])
values = st.one_of(st.sampled_from([b"", b"/", b"GET", b"application/grpc", b"trailers"]), st.binary(max_size=300))
lists = st.lists(st.tuples(names, values), max_size=12)


@given(st.lists(st.tuples(lists, st.booleans(), st.sampled_from([None, 0, 64, 500, 4096])), max_size=8))
def test_what_another_encoder_wrote_is_read(blocks: list[tuple[list[tuple[bytes, bytes]], bool, int | None]]) -> None:
    """Over one connection, so that each block rests on the tables that those before it left."""
    encoder, reader = hpack.Encoder(), HeaderReader(LIMITS)
    for headers, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        found, counted = reader.decode(encoder.encode(headers, huffman=huffman))
        assert found == headers
        assert counted == sum(len(name) + len(value) + 32 for name, value in headers)


@given(lists)
def test_what_is_written_another_decoder_reads_and_keeps_nothing(headers: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    assert [tuple(pair) for pair in decoder.decode(block(headers), raw=True)] == headers
    assert not decoder.header_table.dynamic_entries
    assert block(headers) == block(headers)


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_any_bytes_are_read_as_by_another_decoder_or_refused(first: bytes, second: bytes) -> None:
    decoder, reader = hpack.Decoder(), HeaderReader(LIMITS)
    for data in (first, second):
        try:
            expected = [tuple(map(bytes, pair)) for pair in decoder.decode(data, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(BadBlock):
                reader.decode(data)
            return
        assert reader.decode(data)[0] == expected


@given(st.lists(st.tuples(names | st.binary(max_size=8), values), max_size=8))
def test_any_headers_are_a_request_or_not(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        head = read_head([*REQUEST, *headers], LIMITS)
    except (Malformed, Refusal):
        return
    assert (head.method, head.path, head.fields[b"host"]) == ("POST", "/x", b"test")
    for name, value in head.headers:
        assert name == name.lower()
        assert not set(value) & {0, 10, 13}


def test_equal_blocks_are_read_once_until_the_table_moves() -> None:
    encoder, reader = hpack.Encoder(), HeaderReader(LIMITS)
    first = reader.head(encoder.encode(REQUEST))
    again = encoder.encode(REQUEST)
    second = reader.head(again)
    assert reader.known == {again: second}
    assert first.headers == second.headers
    # One more entry moves every index: the same bytes now mean something else, or nothing.
    reader.head(encoder.encode([*REQUEST, (b"x-new", b"1")]))
    assert not reader.known
    with pytest.raises(Malformed):
        reader.head(again)


def test_a_block_that_changes_the_table_is_never_known() -> None:
    reader = HeaderReader(LIMITS)
    adds = block(REQUEST) + b"\x40\x03x-a\x011"
    for entries in (1, 2, 3):
        assert dict(reader.head(adds).headers)[b"x-a"] == b"1"
        assert len(reader._entries) == entries
        assert not reader.known
