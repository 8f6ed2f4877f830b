"""Auto-scaling with real replicas: a spike of ten times the load on a model that waits."""

import os
from pathlib import Path

from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import Callers, fleet, marked

# More replicas and a longer spike: TIDEMILL_REPLICAS=16.
MOST = int(os.environ.get("TIDEMILL_REPLICAS", "4"))

QUICK = {"stable_window": 4.0, "panic_window": 1.0, "down_delay": 1.0}


def test_a_spike_brings_replicas_and_its_end_takes_them_away(tmp_path: Path) -> None:
    replicas = {"minimum": 1, "maximum": MOST, "balancer": "socket", "autoscaling": QUICK}
    # One call at a time of one row: what waits cannot be merged, and only more replicas help.
    with fleet(tmp_path, [marked(tmp_path)], replicas, batching={"max_rows": 1}, cores=MOST) as server:
        quiet = Callers(server.address, many=1, seconds=0.02)
        quiet.go_on(100)
        assert len(server.replicas()) == 1
        spike = Callers(server.address, many=3 * MOST, seconds=0.02)
        eventually(lambda: len(server.replicas()) == MOST)
        server.wait_for("replica ready", MOST)
        # Its clients keep their connections, and yet replicas get some of them: no other keeps two more than its share.
        eventually(lambda: len(spike.answered) >= 0.75 * MOST)
        spike.go_on(100 * MOST)
        spike.finish()
        eventually(lambda: len(server.replicas()) == 1)
        quiet.go_on(50)
        quiet.finish()
        assert spike.lost == quiet.lost == []
        decisions = server.events("scaling")
        assert decisions[0]["replicas"] > decisions[0]["before"] == 1
        assert decisions[-1]["replicas"] == 1
        assert all(line["reason"] and line["cause"] for line in decisions)
