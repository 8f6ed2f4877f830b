"""Replicas that share a socket: lost, hung, replaced, rolled and drained under load, every request counted."""

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import PATH, Callers, alive, ask, body, fleet, marked
from tests.realtime.serving import process

TWO = {"minimum": 2, "balancer": "socket"}


def test_connections_are_even_and_a_lost_replica_loses_only_what_it_had(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO) as server:
        callers = Callers(server.address, many=8, seconds=0.002)
        callers.go_on(200)
        assert len(callers.answered) == 2, "both answer"
        victim = server.replicas()[0]
        victim.kill()
        server.wait_for("replica failed")
        callers.go_on(200)
        eventually(lambda: len(server.replicas()) == 2)
        server.wait_for("replica ready", 3)
        late = [ask(server.url).json()["outputs"][1]["data"][0] for _ in range(20)]
        assert set(late) <= {one.pid for one in server.replicas()}
        callers.finish()
        # Each caller has one request at a time: those whose connection it held.
        assert len(callers.lost) <= 8
        assert callers.answered[victim.pid] > 0
        assert not [line for line in server.log if line["level"] == "error" and line["event"] != "replica failed"]


def test_sixteen_connections_are_spread_over_both(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO) as server:
        shares = []
        for _ in range(9):
            clients = [http.client.HTTPConnection(server.address, timeout=60) for _ in range(16)]
            pids = []
            for client in clients:
                client.request("POST", PATH, body(1))
                pids.append(json.loads(client.getresponse().read())["outputs"][1]["data"][0])
            shares.append(max(pids.count(pid) for pid in set(pids)))
            for client in clients:
                client.close()
        assert sorted(shares)[len(shares) // 2] <= 10, shares


def test_rate_limits_hold_for_all_replicas_together(tmp_path: Path) -> None:
    # Four at once, and nobody waits for the next.
    limits = {"address": {"requests": 0.01, "burst": 400.0}}
    with fleet(tmp_path, [marked(tmp_path)], TWO, rate_limits=limits) as server:
        statuses: Counter[int] = Counter()
        with contextlib.ExitStack() as open_:
            # All at once, because what is evenly shared out is the connections that are open.
            for _ in range(8):
                client = http.client.HTTPConnection(server.address, timeout=60)
                open_.callback(client.close)
                for _ in range(5):
                    client.request("POST", PATH, body(1))
                    answer = client.getresponse()
                    answer.read()
                    statuses[answer.status] += 1
        assert statuses == {200: 4, 429: 36}


def test_a_replica_that_stands_still_is_replaced(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], {**TWO, "liveness_timeout": 2.0}) as server:
        stopped = server.replicas()[0]
        stopped.suspend()
        line = server.wait_for("replica to be replaced")
        assert line["reason"] == "it does not answer"
        server.wait_for("replica ready", 3)
        assert not alive(stopped.pid)
        assert ask(server.url).status_code == 200
        eventually(lambda: len(server.replicas()) == 2)


def test_a_replica_whose_model_hangs_is_replaced_by_one_started_before(tmp_path: Path) -> None:
    package = marked(tmp_path, timeout_ms=300)
    with fleet(tmp_path, [package], {"minimum": 1}, batching={"hung_after": 0.2}, grace=1.0) as server:
        (first,) = server.replicas()
        assert ask(server.url, mark=-1).status_code == 504
        server.wait_for("replica to be replaced")
        eventually(lambda: first.pid not in [one.pid for one in server.replicas()])
        assert ask(server.url).status_code == 200
        events = [line["event"] for line in server.log]
        assert events.index("leaving") > len(events) - 1 - events[::-1].index("replica ready"), "the new one was ready"


# A request breaks it for as long as its process lives, as a model is broken that has used up its memory.
BREAKS = """
        predict, broken = self.predict, []

        def breaks(rows):
            broken.extend(rows["mark"][rows["mark"] == -3])
            if broken:
                raise MemoryError
            return predict(rows)

        self.predict = breaks"""


def test_a_replica_whose_model_has_broken_is_replaced(tmp_path: Path) -> None:
    package = marked(tmp_path, load=BREAKS.strip())
    with fleet(tmp_path, [package], {"minimum": 1, "liveness_timeout": 1.0}) as server:
        (first,) = server.replicas()
        assert ask(server.url, mark=-3).status_code == 500
        assert ask(server.url).status_code == 500
        line = server.wait_for("replica to be replaced")
        assert line["reason"] == "model marked does not answer its own samples any more"
        server.wait_for("replica ended")
        assert first.pid not in [one.pid for one in server.replicas()]
        assert ask(server.url).status_code == 200
        assert len(server.events("replica to be replaced")) == 1


def test_a_new_version_is_rolled_out_without_a_lost_request(tmp_path: Path) -> None:
    package = marked(tmp_path)
    with fleet(tmp_path, [package], TWO) as server:
        before = {one.pid for one in server.replicas()}
        callers = Callers(server.address, many=8, seconds=0.002)
        callers.go_on(100)
        server.child.send_signal(signal.SIGHUP)
        server.wait_for("replica ended", 2)
        eventually(lambda: len(server.replicas()) == 2)
        callers.go_on(100)
        callers.finish()
        assert callers.lost == []
        after = {one.pid for one in server.replicas()}
        assert not before & after
        assert set(callers.answered) <= before | after
        assert set(callers.answered) > before


def test_a_version_that_does_not_start_changes_nothing(tmp_path: Path) -> None:
    package = marked(tmp_path)
    with fleet(tmp_path, [package], TWO) as server:
        before = {one.pid for one in server.replicas()}
        (package / "model.py").write_text("class Model: pass")
        server.child.send_signal(signal.SIGHUP)
        line = server.wait_for("the new version is not served; the old one is, as before")
        assert "its SHA-256 is" in line["reason"]
        eventually(lambda: {one.pid for one in server.replicas()} == before)
        assert ask(server.url).status_code == 200


def test_sigterm_under_load_loses_no_accepted_request(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO, lame_duck=0.5, grace=20.0) as server:
        callers = Callers(server.address, many=16, seconds=0.01)
        callers.go_on(200)
        server.terminate()
        assert server.child.wait(60) == 0
        callers.finish()
        assert callers.lost == []
        assert [line["cut"] for line in server.events("stopped")] == [0, 0]


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO, lame_duck=50.0, grace=50.0) as server:
        replicas = [one.pid for one in server.replicas()]
        server.child.send_signal(signal.SIGINT)
        server.wait_for("leaving", 2)
        server.child.send_signal(signal.SIGINT)
        server.child.wait(20)
        assert not any(alive(pid) for pid in replicas)


def test_without_their_supervisor_no_replica_goes_on(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO, grace=20.0) as server:
        replicas = [one.pid for one in server.replicas()]
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(ask(server.url, seconds=1.0)))
        asking.start()
        time.sleep(0.3)
        server.child.kill()
        asking.join(30)
        assert answers[0].status_code == 200, "what was in flight is answered"
        eventually(lambda: not any(alive(pid) for pid in replicas))
        with pytest.raises(httpx.ConnectError):
            ask(server.url)


def test_a_broken_package_ends_it_as_it_ends_a_single_process(tmp_path: Path) -> None:
    package = marked(tmp_path)
    (package / "model.py").write_text("class Model: pass")
    with fleet(tmp_path, [package], TWO, ready=False) as server:
        code = server.child.wait(60)
        said = server.text.splitlines()[-1]
        assert server.events("ready") == []
    with pytest.raises(AssertionError, match="the server ended"), process(tmp_path, [package], until="ready"):
        pass
    single = (tmp_path / "server.log").read_text().splitlines()[-1]
    assert code == 1
    assert "IntegrityError" in said
    assert said == single


def test_a_repository_without_a_whole_package_is_waited_for(tmp_path: Path) -> None:
    package = marked(tmp_path)
    source = (package / "model.py").read_text()
    (package / "model.py").write_text("class Model: pass")
    home = tmp_path / "repository" / "marked" / "1"
    home.parent.mkdir(parents=True)
    package.rename(home)
    repository = {"directory": str(home.parent.parent), "interval": 0.1}
    with fleet(tmp_path, [], TWO, repository=repository, model_control="poll") as server:
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        assert ask(server.url).status_code == 404
        (home / "model.py").write_text(source)
        eventually(lambda: ask(server.url).status_code == 200)


def test_what_ends_each_time_it_starts_is_given_up_after_some_tries(tmp_path: Path) -> None:
    load = "import sys; 'replica' in ' '.join(sys.orig_argv) and os._exit(9)"
    with fleet(tmp_path, [marked(tmp_path, load=load)], {"minimum": 1}, ready=False) as server:
        assert server.child.wait(60) == 1
        tries = server.events("replica did not start")
        assert len(tries) == 5
        assert [line["how"] for line in tries] == ["exit code 9"] * 5
        waits = [line["next_try_seconds"] for line in tries]
        assert waits[0] == 0.0
        assert all(0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(waits[1:]))
        assert "no replica starts: 5 tries failed, the last one: exit code 9" in server.text.splitlines()[-1]


def test_a_replica_that_is_told_to_end_by_hand_is_replaced(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO) as server:
        callers = Callers(server.address, many=4, seconds=0.002)
        callers.go_on(50)
        os.kill(server.replicas()[0].pid, signal.SIGTERM)
        server.wait_for("replica ready", 3)
        callers.go_on(50)
        callers.finish()
        assert callers.lost == []


def test_a_change_asked_of_one_replica_is_served_by_all(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    (repository / "marked").mkdir(parents=True)
    marked(tmp_path).rename(repository / "marked" / "1")
    options = {"repository": {"directory": str(repository), "load": ["marked"]}, "model_control": "explicit"}
    with fleet(tmp_path, [], TWO, **options) as server:

        def versions() -> set[str]:
            found = set()
            for _ in range(12):
                answer = ask(server.url)
                found.add(answer.json().get("model_version", str(answer.status_code)))
            return found

        assert versions() == {"1"}
        assert httpx.post(f"{server.url}/v2/repository/models/marked/unload", json={}).status_code == 200
        assert versions() == {"404"}
        assert httpx.post(f"{server.url}/v2/repository/models/marked/load", json={}).status_code == 200
        assert versions() == {"1"}
        unknown = httpx.post(f"{server.url}/v2/repository/models/other/load", json={})
        assert unknown.status_code == 404
        assert "there is no model 'other'" in unknown.json()["error"]
        for one in server.replicas():
            one.kill()
        server.wait_for("replica ready", 4)
        assert versions() == {"1"}, "a new one serves what was asked for, not what the options say"


def test_counts_outlive_the_replicas_that_counted(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO, management={"port": 0}) as server:
        management = f"http://{server.events('management')[0]['address']}"

        def counted() -> float:
            lines = httpx.get(f"{management}/metrics").text.splitlines()
            found = [line for line in lines if line.startswith("tidemill_requests_total") and 'outcome="ok"' in line]
            return sum(float(line.rpartition(" ")[2]) for line in found)

        callers = Callers(server.address, many=4)
        callers.go_on(100)
        callers.finish()
        # The last answer may be here before the process that gave it has counted it.
        eventually(lambda: counted() == callers.total)
        for one in server.replicas():
            one.kill()
        server.wait_for("replica ready", 4)
        assert counted() == callers.total
        page = httpx.get(f"{management}/metrics").text
        assert 'tidemill_replicas{state="ready"} 2.0' in page
        assert "tidemill_replica_failures_total 2.0" in page
        told = httpx.get(f"{management}/replicas").json()
        assert {one["pid"] for one in told} == {one.pid for one in server.replicas()}
