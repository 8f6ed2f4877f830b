"""The rules and the dashboard, by Prometheus' own tool, over metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

from tidemill.observability.families import FAMILIES, Kind

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
RULES = MONITORING / "tidemill.rules.yml"


def promtool(*arguments: str | Path) -> None:
    program = shutil.which("promtool")
    assert program, "promtool comes with `make setup-services` (Debian, Ubuntu: apt-get install prometheus)"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def names_in(text: str) -> set[str]:
    """The metrics that queries ask for."""
    return set(re.findall(r"(?<![\w:])(?:tidemill|process)_\w+", text))


def known() -> set[str]:
    names = set()
    for name, family in FAMILIES.items():
        suffixes = ("_bucket", "_sum", "_count") if family.kind is Kind.HISTOGRAM else ("",)
        names |= {name + suffix for suffix in suffixes}
    return names


def test_rules_are_right_and_ring_when_they_should() -> None:
    promtool("check", "rules", RULES)
    promtool("test", "rules", MONITORING / "tidemill.rules_test.yml")
    assert names_in(RULES.read_text()) <= known()


def test_every_alert_is_tried_or_plain() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    tried = set(re.findall(r"alertname: (\w+)", (MONITORING / "tidemill.rules_test.yml").read_text()))
    plain = {"TidemillDown", "TidemillOverloaded", "TidemillConnectionsRefused", "TidemillMetricsUnreadable"}
    assert tried <= alerts
    assert alerts - tried == plain


def test_the_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 12
    assert names_in("\n".join(queries)) <= known()
    rules = [{"record": f"a:query:{n}", "expr": q.replace("$__rate_interval", "5m")} for n, q in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))  # JSON is YAML
    promtool("check", "rules", file)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
