"""MLServer's runtime for the model that gives back what it gets."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse


class Same(MLModel):
    """The inputs that its settings declare."""

    async def load(self) -> bool:
        """Nothing to load."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One call."""
        sent = {tensor.name: tensor for tensor in payload.inputs}
        outputs = []
        for one in self.inputs:
            if one.name not in sent:
                raise InferenceError(f"input {one.name} is missing")
            codec = StringCodec if one.datatype == "BYTES" else NumpyCodec
            outputs.append(codec.encode_output(f"same_{one.name}", codec.decode_input(sent[one.name])))
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
