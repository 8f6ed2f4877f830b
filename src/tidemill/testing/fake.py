"""A server that is none: an httpx transport that answers as Tidemill would, from a package without its model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson

from tidemill.errors import InputError, NotFound, TidemillError
from tidemill.model.package import Package, open_package
from tidemill.model.samples import read_samples
from tidemill.model.signature import Output
from tidemill.prediction.intake import Intake
from tidemill.prediction.live import Live
from tidemill.prediction.result import rows_error
from tidemill.realtime.answers import error_headers
from tidemill.realtime.options import RequestLimits
from tidemill.realtime.protocols.oip_models import metadata
from tidemill.realtime.protocols.oip_request import Reader
from tidemill.realtime.protocols.oip_response import Writer
from tidemill.rows import Array, Rows

if TYPE_CHECKING:
    import httpx

__all__ = ["FakePredictor"]

Answer = Callable[[dict[str, Array]], Mapping[str, Any]]

JSON_SIZE = "inference-header-content-length"


class FakePredictor:
    """Give it to a client as its transport: `Client("http://fake", transport=FakePredictor("model/"))`.

    Requests are read, rows validated and answers written by the code of the real server, so that what is wrong is
    refused in the same words; only the model is not run, and its runtime need not be installed. `answer` is asked in
    its place: a function of columns (name → array of n rows) to outputs by name, after all transforms. Without one,
    a row that is among the package's samples gets what was recorded for it, and any other what was recorded for the
    sample of its place, or fillers (0, empty text) where there are no samples.

    `calls` are the rows of all inferences so far. `fail` has the next requests answered by an error.
    """

    def __init__(self, package: str | os.PathLike[str], answer: Answer | None = None) -> None:
        real = open_package(package)
        manifest = real.manifest
        outputs = tuple(msgspec.structs.replace(o, source=None, threshold=None, top_k=None) for o in manifest.outputs)
        # What is answered is what a caller sees, so nothing is transformed or derived from it.
        plain = Package(real.directory, msgspec.structs.replace(manifest, outputs=outputs, transform=None))
        self.calls: list[Rows] = []
        self._live = Live(plain, _Answers(answer or _recorded(plain), outputs))
        self._reader = Reader(self._live.intake, [o.name for o in outputs], RequestLimits())
        self._writer = Writer(plain)
        self._failures: deque[TidemillError] = deque()
        self._name = manifest.name
        self._about = metadata(manifest, [manifest.version])
        self._roots = {f"/v2/models/{manifest.name}", f"/v2/models/{manifest.name}/versions/{manifest.version}"}

    def fail(self, error: TidemillError, times: int = 1) -> None:
        """Answer the next `times` inferences with this error, as a server would: its status, text and headers."""
        self._failures.extend([error] * times)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """What httpx asks a transport."""
        request.read()
        return self._answered(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """What httpx asks a transport in an event loop."""
        await request.aread()
        return self._answered(request)

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> FakePredictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> FakePredictor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _answered(self, request: httpx.Request) -> httpx.Response:
        import httpx

        try:
            headers, body = self._answer(request)
        except TidemillError as error:
            told = [(name.decode(), value.decode()) for name, value in error_headers(error)]
            return httpx.Response(error.status, headers=told, content=orjson.dumps({"error": str(error)}))
        return httpx.Response(200, headers=headers, content=body)

    def _answer(self, request: httpx.Request) -> tuple[dict[str, str], bytes]:
        path = request.url.path
        root, _, last = path.rpartition("/")
        if request.method == "POST" and last == "infer" and root in self._roots:
            return self._infer(request)
        if path in self._roots:
            return {}, self._about
        if path in ("/v2/health/live", "/v2/health/ready") or (last == "ready" and root in self._roots):
            return {}, orjson.dumps({"ready": True})
        if path == "/v2":
            return {}, orjson.dumps({"name": "tidemill", "version": "fake", "extensions": ["binary_tensor_data"]})
        raise NotFound(f"{request.method} {path}: the fake has the model {self._name!r} only")

    def _infer(self, request: httpx.Request) -> tuple[dict[str, str], bytes]:
        if self._failures:
            raise self._failures.popleft()
        size = request.headers.get(JSON_SIZE)
        try:
            rows, asked = self._reader.read(request.content, None if size is None else int(size))
        except ValueError:
            raise InputError(f"{JSON_SIZE} is {size!r:.40}, expected a number") from None
        self.calls.append(rows)
        result = self._live.predict(rows)
        if result.problems and not asked.partial:
            raise rows_error(result.problems, result.n)
        problems = result.problems if asked.partial else None
        parts, json_size = self._writer.write(result, 0, result.n, asked.outputs, asked.id, problems)
        return {} if json_size is None else {JSON_SIZE: str(json_size)}, b"".join(parts)


class _Answers:
    """The runtime of a fake: a function in place of a model."""

    version = "fake"
    releases_gil = False

    def __init__(self, answer: Answer, outputs: Iterable[Output]) -> None:
        self._answer = answer
        self._dtypes = {one.name: one.type.dtype for one in outputs}

    def run(self, rows: Rows) -> Rows:
        found = {name: self._typed(name, values) for name, values in self._answer(dict(rows.columns)).items()}
        return Rows(found, rows.n)

    def _typed(self, name: str, values: Any) -> Array:
        """As the signature has it, where that is only wider or narrower: Python's floats are none of a model."""
        array: Array = np.asarray(values)
        dtype = self._dtypes.get(name, array.dtype)
        return array.astype(dtype) if np.can_cast(array.dtype, dtype, "same_kind") else array


def _recorded(package: Package) -> Answer:
    """Outputs from the package's samples, or fillers."""
    outputs = package.manifest.outputs
    samples = read_samples(package)
    if samples is None or not samples[0].num_rows:

        def fill(columns: dict[str, Array]) -> Mapping[str, Any]:
            n = len(next(iter(columns.values())))
            blank = {o.name: (b"" if o.binary else "") if o.datatype == "BYTES" else 0 for o in outputs}
            return {o.name: np.full((n, *map(abs, o.shape[1:])), blank[o.name], o.type.dtype) for o in outputs}

        return fill
    inputs = Intake(package.manifest.inputs).from_arrow(samples[0])
    known = {key: i for i, key in reversed(list(enumerate(_keys(dict(inputs.columns)))))}
    expected = {
        o.name: np.array(samples[1].column(o.name).to_pylist(), o.type.dtype).reshape(
            (inputs.n, *[d if d > 0 else -1 for d in o.shape[1:]])
        )
        for o in outputs
    }

    def recorded(columns: dict[str, Array]) -> Mapping[str, Any]:
        index = np.array([known.get(key, i % inputs.n) for i, key in enumerate(_keys(columns))], np.int64)
        return {name: values[index] for name, values in expected.items()}

    return recorded


def _keys(columns: Mapping[str, Array]) -> list[str]:
    """A text for each row, the same for the same cells."""
    return [repr(cells) for cells in zip(*[array.tolist() for array in columns.values()], strict=True)]
