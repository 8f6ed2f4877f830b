"""Health and metadata over REST."""

from __future__ import annotations

from tidemill.assurance.conformance.case import OPEN, OPTIONAL, REQUIRED, Case, Chapter, Failed, Skipped, expect, of
from tidemill.assurance.conformance.subject import Subject, refusal
from tidemill.assurance.conformance.tensors import specs
from tidemill.datatypes import DATATYPES

__all__ = ["HEALTH", "METADATA", "NOBODY"]

NOBODY = "no-such-model-8f1c"
PLATFORMS = (
    "tensorrt_plan",
    "tensorflow_graphdef",
    "tensorflow_savedmodel",
    "onnx_onnxv1",
    "pytorch_torchscript",
    "mxnet_mxnet",
    "caffe2_netdef",
)


def _live(subject: Subject) -> str:
    reply = subject.get("/v2/health/live")
    expect(reply.status == 200, reply.told())
    return ""


def _ready(subject: Subject) -> str:
    reply = subject.get("/v2/health/ready")
    expect(reply.status == 200, reply.told())
    return ""


def _model_ready(subject: Subject) -> str:
    reply = subject.get(subject.path() + "/ready")
    expect(reply.status == 200, reply.told())
    return ""


def _bodies(subject: Subject) -> str:
    paths = ("/v2/health/live", "/v2/health/ready", subject.path() + "/ready")
    return "; ".join(subject.get(path).body[:60].decode(errors="replace") or "empty" for path in paths)


def _version_ready(subject: Subject) -> str:
    for version in _versions(subject):
        reply = subject.get(subject.path(version) + "/ready")
        expect(reply.status == 200, f"version {version}: {reply.told()}")
    return ""


def _unknown_ready(subject: Subject) -> str:
    return subject.get(subject.path(model=NOBODY) + "/ready").told()


def _server(subject: Subject) -> str:
    reply = subject.get("/v2")
    expect(reply.status == 200, reply.told())
    doc = reply.json()
    extensions = of(doc, "extensions", list)
    expect(all(isinstance(e, str) for e in extensions), f"extensions are {extensions!r:.80}")
    return f"{of(doc, 'name', str)} {of(doc, 'version', str)}"


def _slash(subject: Subject) -> str:
    return subject.get("/v2/").told()[:8]


def _model(subject: Subject) -> str:
    reply = subject.get(subject.path())
    expect(reply.status == 200, reply.told())
    doc = reply.json()
    expect(of(doc, "name", str) == subject.model, f"the name is {doc['name']!r}")
    of(doc, "platform", str)
    return ""


def _tensors(subject: Subject) -> str:
    doc = subject.get(subject.path()).json()
    for name in ("inputs", "outputs"):
        for one in specs(doc, name):
            expect(one.datatype in DATATYPES, f"{one.name!r} has the datatype {one.datatype!r}")
    return ""


def _listed(subject: Subject) -> str:
    doc = subject.get(subject.path()).json()
    if not isinstance(doc, dict) or "versions" not in doc:
        raise Skipped("the model lists no versions")
    versions = of(doc, "versions", list)
    expect(all(isinstance(v, str) for v in versions), f"versions are {versions!r:.80}")
    return ", ".join(versions) or "an empty list"


def _version_metadata(subject: Subject) -> str:
    for version in _versions(subject):
        reply = subject.get(subject.path(version))
        expect(reply.status == 200, f"version {version}: {reply.told()}")
        expect(
            of(reply.json(), "name", str) == subject.model, f"version {version}: the name is {reply.json()['name']!r}"
        )
    return ""


def _platform(subject: Subject) -> str:
    found = of(subject.get(subject.path()).json(), "platform", str)
    return f"{found!r}, {'one' if found in PLATFORMS else 'none'} of those named"


def _unknown_model(subject: Subject) -> str:
    return refusal(subject.get(subject.path(model=NOBODY)))


def _unknown_version(subject: Subject) -> str:
    _versions(subject)
    return refusal(subject.get(subject.path("987654321")))


def _versions(subject: Subject) -> list[str]:
    if not subject.versions:
        raise Skipped("the model lists no versions")
    return list(subject.versions)


def _alive(subject: Subject) -> str:
    try:
        return _live(subject)
    except Failed as fault:
        raise Failed(f"after the cases before this one: {fault}") from None


HEALTH = Chapter(
    "REST health",
    [
        Case("server live", REQUIRED, 'OIP: "Server Live, GET, v2/health/live"; "200"', _live),
        Case(
            "server ready",
            REQUIRED,
            'OIP: "The “server ready” health API indicates if all the models are ready for inferencing."',
            _ready,
        ),
        Case(
            "model ready",
            REQUIRED,
            'OIP: "The “model ready” health API indicates if a specific model is ready for inferencing."',
            _model_ready,
        ),
        Case(
            "model ready with version",
            OPTIONAL,
            'OIP: "v2/models/<model_name>[/versions/<model_version>]/ready", "in [] … optional"',
            _version_ready,
        ),
        Case(
            "bodies of health",
            OPEN,
            'OIP: "$live_server_response = { "live" : $bool }", for ready the same; its OpenAPI file has no body',
            _bodies,
        ),
        Case("ready of no model", OPEN, "OIP names no status for the readiness of an unknown model", _unknown_ready),
    ],
)
METADATA = Chapter(
    "REST metadata",
    [
        Case(
            "server metadata",
            REQUIRED,
            'OIP: "A successful server metadata request is indicated by a 200 HTTP status code", "name", "version", '
            '"extensions"',
            _server,
        ),
        Case("path with a slash", OPEN, "OIP's page has the path v2, its OpenAPI file /v2/", _slash),
        Case(
            "model metadata",
            REQUIRED,
            'OIP: "$metadata_model_response … is returned in the HTTP body for every successful model metadata '
            'request": "name", "platform"',
            _model,
        ),
        Case(
            "tensors of the model",
            REQUIRED,
            'OIP: "inputs : The inputs required by the model", "outputs", "Variable-size dimensions are specified as '
            '-1"',
            _tensors,
        ),
        Case("versions of the model", OPTIONAL, 'OIP: ""versions" : [ $string, ... ] #optional"', _listed),
        Case(
            "metadata of each version",
            OPTIONAL,
            'OIP: "versions : The model versions that may be explicitly requested via the appropriate endpoint."',
            _version_metadata,
        ),
        Case("platform", OPEN, 'OIP: "The following platform names are allowed", "information only"', _platform),
        Case(
            "metadata of no model",
            REQUIRED,
            'OIP: "A failed model metadata request must be indicated by an HTTP error status … The HTTP body must '
            'contain the $metadata_model_error_response object."',
            _unknown_model,
        ),
        Case(
            "metadata of no version",
            REQUIRED,
            'OIP: "A failed model metadata request must be indicated by an HTTP error status"',
            _unknown_version,
        ),
        Case(
            "alive",
            REQUIRED,
            'OIP: "“server live” … indicates if the inference server is able to receive and respond"',
            _alive,
        ),
    ],
)
