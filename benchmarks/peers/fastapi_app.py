"""FastAPI. Default: typed models in and out, as its tutorial has it. Best: raw bytes in and out, orjson."""

from typing import Any

import uvicorn
from common import BEST, PORT, Trees, decoded, document, encoded, rows_of
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

app = FastAPI()
trees = Trees()


class Tensor(BaseModel):
    """One tensor of the protocol."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Inference(BaseModel):
    """A request of the protocol."""

    inputs: list[Tensor]


@app.get("/")
async def ready() -> dict[str, bool]:
    """Ready."""
    return {"ready": True}


if BEST:

    @app.post("/infer")
    async def infer(request: Request) -> Response:
        """One request, without typed models."""
        arrays = trees(decoded(await request.body()))
        return Response(encoded(trees.outputs, arrays), media_type="application/json")

else:

    @app.post("/infer")
    async def infer_typed(body: Inference) -> dict[str, Any]:
        """One request."""
        return document(trees.outputs, trees(rows_of(body.model_dump())))


uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning")
