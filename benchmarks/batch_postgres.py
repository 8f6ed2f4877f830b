"""PostgreSQL → PostgreSQL beside a COPY loop written by hand: `python -m benchmarks.batch_postgres`.

A server of its own, on the same cores. Prints each whole process and the ratio of every round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pyarrow.parquet as pq

from benchmarks import model
from benchmarks.batch import Score, WrongOutputError, input_file, score
from benchmarks.machine import BIN, ROOT, cores
from tests.batch.databases.server import Server

__all__ = ["run"]


def run(out: Path, rows: int, rounds: int) -> list[tuple[Score, Score]]:
    """The loop and `tidemill score` of each round, by turns. Raises WrongOutputError where their outputs differ."""
    trained = model.make(out / "model")
    source = input_file(out, rows)
    server = Server()
    try:
        uri = server.database("bench")
        with adbc.connect(uri) as connection, connection.cursor() as cursor:
            file = pq.ParquetFile(source)
            cursor.adbc_ingest("customers", file.iter_batches(), mode="create")
            connection.commit()
        with psycopg.connect(uri, autocommit=True) as sql:
            sql.execute("VACUUM ANALYZE customers")
            return [_round(out, sql, uri, trained, rows, number) for number in range(1, rounds + 1)]
    finally:
        server.close()


def _round(
    out: Path, sql: psycopg.Connection, uri: str, trained: model.Model, rows: int, number: int
) -> tuple[Score, Score]:
    commands: dict[str, list[str | Path]] = {
        "loop": [sys.executable, ROOT / "benchmarks/postgres_handwritten.py", trained.onnx, uri, "customers", "loop"],
        "tidemill": [BIN / "tidemill", "score", trained.package, f"{uri}?table=customers", f"{uri}?table=tidemill"],
    }
    # What a run keeps while it goes, and its manifest, lie with the rest of a benchmark.
    commands["tidemill"] += ["--stage", out / "postgres-stage"]
    scores = []
    for program, command in commands.items():
        sql.execute(f'DROP TABLE IF EXISTS "{program}"'.encode())
        sql.execute("CHECKPOINT")
        scores.append(score(out, program, command, cores().both, rows, number))
    names = [c.name for c in sql.execute('SELECT * FROM "loop" LIMIT 0').description or ()]
    listed = ", ".join(f'"{n}"' for n in names)
    query = f"SELECT count(*) FROM (SELECT {listed} FROM loop EXCEPT ALL SELECT {listed} FROM tidemill) AS differing"
    counts = [sql.execute(q.encode()).fetchone() for q in (query, "SELECT count(*) FROM tidemill")]
    if counts != [(0,), (rows,)]:
        raise WrongOutputError(f"differing rows {counts[0]}, written {counts[1]} of {rows:,}")
    return scores[0], scores[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    ratios = [loop.seconds / ours.seconds for loop, ours in run(asked.out, asked.rows, asked.rounds)]
    print(
        f"rows/s over the loop's, each round: {', '.join(f'{r:.2f}' for r in ratios)}; {statistics.median(ratios):.2f}"
    )
