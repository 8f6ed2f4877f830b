"""`tidemill score`: the summary, the flags, the exit codes, and Ctrl-C."""

import json
import shlex
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.assurance.support import python_package
from tests.cli.support import PROGRAM, start, tidemill


def test_the_summary_adds_up(package: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    done = tidemill("score", package, table, out, "--run-id", "one")
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert ["read", "1,000"] in lines
    assert ["=", "written", "990", str(out)] in lines
    assert ["below_minimum", "10"] in lines
    assert next(line[2] for line in lines if line[:2] == ["+", "dead"]) == "10"
    assert "run one: done" in done.stdout
    assert pq.read_table(out).column_names == ["score"]


def test_json_is_the_report_and_nothing_else(package: Path, table: Path, tmp_path: Path) -> None:
    done = tidemill("score", package, table, tmp_path / "out.parquet", "--json")
    report = json.loads(done.stdout)
    assert report["read"] == report["written"] + report["dead"] == 1000
    assert report["errors"] == {"below_minimum": 10}
    assert done.stderr == ""


def test_the_flags_reach_the_run(package: Path, table: Path, tmp_path: Path) -> None:
    out, dead = tmp_path / "out.jsonl", tmp_path / "dead.jsonl"
    done = tidemill(
        "score", package, table, out, "--chunk-rows", 100, "--workers", 2, "--select", "score",
        "--pass-through", "id,x", "--dead-letters", dead, "--max-error-rate", 0.5,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(out.read_text().splitlines()[0]) == {"id": 1, "x": 1.0, "score": 2.0}
    assert [json.loads(line)["id"] for line in dead.read_text().splitlines()] == list(range(0, 1000, 100))


def test_an_output_is_replaced_only_when_asked(package: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert tidemill("score", package, table, out, "--run-id", "one").exit_code == 0
    again = tidemill("score", package, table, out)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert tidemill("score", package, table, out, "--overwrite", "--run-id", "two").exit_code == 0
    same = tidemill("score", package, table, out, "--run-id", "two")
    assert same.exit_code == 0
    assert "nothing to do" in same.stdout
    both = tidemill("score", package, table, out, "--overwrite", "--mode", "append")
    assert (both.exit_code, "give one of them" in both.stderr) == (2, True)


@pytest.mark.parametrize("machine", [False, True])
def test_over_the_error_budget_ends_with_3_and_leaves_no_output(
    machine: bool, package: Path, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    flags = ["--json"] if machine else []
    done = tidemill("score", package, table, out, "--max-error-rate", 0.001, *flags)
    assert done.exit_code == 3
    assert not out.exists()
    assert done.stderr.startswith("error: ")
    if machine:
        assert json.loads(done.stdout)["state"] == "over_budget"
    else:
        assert "not committed" in done.stdout
        assert "over the error budget" in done.stdout


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--max-error-rate", "2"], 2, "max_error_rate"),
        (["--chunk-rows", "0"], 2, "chunk_rows"),
        (["--run-id", "a b"], 2, "run_id"),
        (["--select", "nothing"], 2, "no output 'nothing'"),
        (["--pass-through", "nothing"], 2, "'nothing' is not in the input"),
    ],
)
def test_wrong_flags_end_with_2_and_name_the_option(
    flags: list[str], code: int, message: str, package: Path, table: Path, tmp_path: Path
) -> None:
    done = tidemill("score", package, table, tmp_path / "out.parquet", *flags)
    assert done.exit_code == code
    assert message in done.stderr


def test_an_input_that_is_not_there_ends_with_1(package: Path, tmp_path: Path) -> None:
    done = tidemill("score", package, tmp_path / "nothing.parquet", tmp_path / "out.parquet")
    assert done.exit_code == 1
    assert "nothing.parquet: no such file" in done.stderr


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    body = f"open({str(asked)!r}, 'a').write('.')\ntime.sleep(0.02)\nreturn {{'score': rows['x']}}"
    slow = python_package(tmp_path, body, head="import time")
    source, out = tmp_path / "rows.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"x": np.zeros(2_000_000, np.float32)}), source)
    process = start("score", slow.directory, source, out, "--chunk-rows", 1000, "--run-id", "mine")
    until = time.monotonic() + 60
    while (not asked.exists() or asked.stat().st_size < 50) and time.monotonic() < until:
        time.sleep(0.05)  # until chunks are answered
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "--run-id mine" in told
    assert "Traceback" not in told
    assert not out.exists()


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed_from_the_beginning_change_nothing(
    package: Path, table: Path, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    out = tmp_path / "out.parquet"
    command = shlex.join([*PROGRAM, "score", str(package), str(table), str(out)])
    shut = " ".join(f"{n}>&-" if n else "0<&-" for n in closed)
    assert subprocess.run(["bash", "-c", f"{command} {shut}"], timeout=120).returncode == 0
    assert pq.read_metadata(out).num_rows > 0
