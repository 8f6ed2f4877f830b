"""The vendored files: what is compiled is what they say, and all of the Open Inference Protocol is in them."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_tools import protoc

from tidemill.realtime.protocols.grpc.messages import pool

HERE = Path(__file__).parent
PROTOS = Path(__file__).parents[3] / "src/tidemill/realtime/protocols/grpc/protos"


def compiled(target: Path, folders: list[Path], files: list[str]) -> bytes:
    includes = [f"-I{folder}" for folder in folders]
    assert protoc.main(["protoc", *includes, "--include_imports", f"--descriptor_set_out={target}", *files]) == 0
    return target.read_bytes()


def test_the_compiled_file_is_that_of_make_protos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROTOS)
    # protoc brings the well-known types with it; `python -m grpc_tools.protoc` adds them by itself.
    well_known = Path(protoc.__file__).parent / "_proto"
    folders = [Path("triton"), Path("grpc"), Path("google"), well_known]
    files = [str(f.relative_to(folder)) for folder in folders[:3] for f in sorted(folder.rglob("*.proto"))]
    found = descriptor_pb2.FileDescriptorSet.FromString(compiled(tmp_path / "set", folders, files))
    committed = descriptor_pb2.FileDescriptorSet.FromString((PROTOS / "descriptors.binpb").read_bytes())
    assert {f.name: f for f in found.file} == {f.name: f for f in committed.file}


@pytest.mark.parametrize("folder", ["triton", "grpc", "google"])
def test_licences_lie_beside(folder: str) -> None:
    assert (
        "icense" in (PROTOS / folder / "LICENSE").read_text()[:600]
        or "Redistribution" in (PROTOS / folder / "LICENSE").read_text()
    )


def test_every_message_and_method_of_the_open_inference_protocol_is_there(tmp_path: Path) -> None:
    theirs = descriptor_pool.DescriptorPool()
    raw = compiled(tmp_path / "set", [HERE], ["open_inference_grpc.proto"])
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(raw).file
    theirs.AddSerializedFile(file.SerializeToString())

    def fields(owner: object, name: str) -> dict[str, tuple[object, ...]]:
        found = owner.FindMessageTypeByName(name)  # type: ignore[attr-defined]
        return {
            f.name: (f.number, f.type, f.is_repeated, f.message_type.full_name if f.message_type else "")
            for f in found.fields
        }

    def names(messages: object, prefix: str) -> list[str]:
        every = [(f"{prefix}.{m.name}", m) for m in messages]  # type: ignore[attr-defined]
        return [n for n, m in every] + [n for name, m in every for n in names(m.nested_type, name)]

    found = names(file.message_type, file.package)
    assert len(found) > 20
    absent = []
    for name in found:
        try:
            ours = fields(pool(), name)
        except KeyError:
            absent.append(name)
            continue
        for field, form in fields(theirs, name).items():
            if field in ours:
                assert ours[field] == form, (name, field)
            else:
                absent.append(f"{name}.{field}")
    # The two projects' files differ in this: a map of a model's properties, which nobody need fill.
    metadata = "inference.ModelMetadataResponse"
    assert absent == [f"{metadata}.properties", f"{metadata}.PropertiesEntry"]
    ours = {m.name: m for m in pool().FindServiceByName("inference.GRPCInferenceService").methods}
    for method in theirs.FindServiceByName("inference.GRPCInferenceService").methods:
        assert ours[method.name].input_type.full_name == method.input_type.full_name
