"""The program that reads large bodies: one after the other, until the server is gone."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import astuple

from tidemill.errors import TidemillError
from tidemill.prediction.intake import Intake
from tidemill.realtime.aside.wire import Found, Order, receive_order, send_found
from tidemill.realtime.encoding import inflate
from tidemill.realtime.protocols.oip_fast import FastReader
from tidemill.realtime.protocols.oip_request import Reader
from tidemill.realtime.protocols.tfserving_request import PredictReader
from tidemill.rows import Rows

__all__ = ["main"]

# Those that answer go first.
NICE = 5


def main() -> None:
    """`python -m tidemill.realtime.aside.program SOCKET`, an inherited file descriptor."""
    os.nice(NICE)
    with socket.socket(fileno=int(sys.argv[1])) as server:
        while True:
            try:
                order, body = receive_order(server)
            except EOFError:
                return
            found = _read(order, body)
            del body
            send_found(server, found)
            del found


def _read(order: Order, body: bytes) -> Found:
    """As the server itself would read it."""
    try:
        if order.coding is not None:
            body = inflate(body, order.coding, order.most)
        intake = Intake(order.inputs)
        if order.form == "tfserving":
            rows, by_row, partial = PredictReader(intake, order.limits).read(body)
            return rows, [by_row, partial]
        reader = Reader(intake, order.outputs, order.limits)
        fast = FastReader.of(order.inputs, order.limits) if order.json_size is None else None
        quick = fast.read(body) if fast is not None else None
        if quick is not None:
            packed, id_ = quick
            return Rows(packed.columns, packed.n), list(astuple(reader.asked({"id": id_})))
        rows, asked = reader.read(body, order.json_size)
        return rows, list(astuple(asked))
    except TidemillError as error:
        return error


if __name__ == "__main__":
    main()
