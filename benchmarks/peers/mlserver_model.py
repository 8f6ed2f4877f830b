"""MLServer's runtime for the trees: its Open Inference Protocol, one request or several a call."""

from common import Trees
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Cancer(MLModel):
    """The trees."""

    async def load(self) -> bool:
        """Load."""
        self.trees = Trees(str(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One call."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        found = self.trees(rows)
        outputs = [NumpyCodec.encode_output(n, a) for n, a in zip(self.trees.outputs, found, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
