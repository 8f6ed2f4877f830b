"""Each kind of request of a run, hurt in each way, as often as it is made at first: reads, parts of an upload, its
completion, the conditional write that commits, and the look that settles it.
"""

from __future__ import annotations

import base64
import random
from itertools import cycle
from pathlib import Path

import pyarrow as pa
import pytest

from tests.batch.stores.conftest import Bucket
from tests.batch.stores.proxy import Hurt, Kind, Proxy
from tests.batch.stores.test_hurt import GOOD, ground, whole
from tests.batch.stores.test_objects import HURTS
from tests.batch.stores.test_targets import read, rows
from tests.batch.support import write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.stores import objects, uploads

__all__ = ["ground"]

READS: list[tuple[Kind, int]] = [
    ("cut", 0),
    ("drop", 0),
    ("vanish", 0),
    ("status", 500),
    ("status", 503),
    ("late status", 500),
]
REPLACING = ScoreOptions(run_id="r1", pass_through=("id",), workers=1, mode="overwrite")
COMMITS = {"out": r"^PUT .*_tidemill/manifest\.json", "out.parquet": r"^PUT .*/out\.parquet(\?|$)"}


@pytest.mark.parametrize(("kind", "status"), READS)
def test_reads(package: Path, ground: Bucket, hurting: Proxy, small_shards: None, kind: Kind, status: int) -> None:
    """Each third look and each third read: of the input, the stage and the output."""
    hurting.hurt(kind, "^(GET|HEAD)", every=3, times=1000, status=status)
    options = ScoreOptions(run_id="r1", pass_through=("id",), workers=1, stage=f"{ground.uri}/stage")
    report = score(package, f"{ground.uri}/in", f"{ground.uri}/out", options)
    whole(ground, "out", report)


@pytest.mark.parametrize(
    ("sink", "commit", "settle"), list(zip(cycle(COMMITS), HURTS, cycle([READS[0], READS[1], READS[4]]), strict=False))
)
def test_the_commit_and_what_settles_it(
    package: Path,
    ground: Bucket,
    hurting: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    small_shards: None,
    sink: str,
    commit: tuple[Kind, int],
    settle: tuple[Kind, int],
) -> None:
    """The reply to it is lost or wrong, and so is the first look at what is there."""
    uri = f"{ground.uri}/{sink}"
    score(package, f"{ground.uri}/in/0.parquet", uri, ScoreOptions(run_id="r0", pass_through=("id",)))
    hurt = hurting.hurt(commit[0], COMMITS[sink], times=2, status=commit[1])
    look = COMMITS[sink].replace("PUT", "(GET|HEAD)")
    taken, armed = hurting.taken, []

    def take(line: str) -> Hurt | None:
        """Looks before the commit are not those that are meant."""
        found = taken(line)
        if found is hurt and not armed:
            armed.append(hurting.hurt(settle[0], look, status=settle[1]))
        return found

    monkeypatch.setattr(hurting, "taken", take)
    report = score(package, f"{ground.uri}/in", uri, REPLACING)
    # Where the library has repeated it until it had its answer, there was nothing to settle.
    assert armed[0].met > 0 or hurt.met > hurt.times
    whole(ground, sink, report)
    again = score(package, f"{ground.uri}/in", uri, REPLACING)
    assert (again.state, again.dead_letters) == ("already_done", report.dead_letters)


@pytest.mark.parametrize(
    ("what", "kind", "status"),
    [
        *(("part", kind, status) for kind, status in (HURTS[0], HURTS[4], HURTS[7])),
        *(("completion", kind, status) for kind, status in HURTS),
        ("begin", "drop", 0),
        ("begin", "status", 503),
    ],
)
def test_an_output_in_parts(
    package: Path,
    bucket: Bucket,
    hurting: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    kind: Kind,
    status: int,
) -> None:
    """Above the size of one request, an object goes up in parts."""
    monkeypatch.setattr(uploads, "PUT_BYTES", 10 << 20)
    monkeypatch.setattr(objects, "PUT_BYTES", 10 << 20)
    monkeypatch.setattr(uploads, "_PART", 6 << 20)
    found = rows()
    noise = base64.b64encode(random.Random(7).randbytes(4000 * len(found) * 3 // 4)).decode()
    labels = [noise[4000 * i : 4000 * i + 4000] for i in range(len(found))]
    source = write(found.set_column(4, "label", pa.array(labels)), tmp_path / "in.parquet", group=500)
    pattern = {"part": r"^PUT .*partNumber=2", "completion": r"^POST .*uploadId=", "begin": r"^POST .*uploads"}[what]
    hurt = hurting.hurt(kind, pattern, times=2, status=status)
    options = ScoreOptions(run_id="r1", pass_through=("id", "label"), workers=1)
    report = score(package, source, f"{bucket.uri}/out.parquet", options)
    assert hurt.met >= 1
    assert (report.state, report.written) == ("done", len(GOOD))
    stored = read(bucket, "out.parquet")
    assert stored["id"].to_list() == GOOD
    assert stored["label"].to_list() == [labels[i] for i in GOOD]
    if what != "begin":  # an upload of which nobody heard is known to the store alone, and is for `tidemill gc`
        assert bucket.uploads() == []
    assert score(package, source, f"{bucket.uri}/out.parquet", options).state == "already_done"
