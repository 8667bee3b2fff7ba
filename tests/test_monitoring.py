"""The alerts, the dashboard and their documentation fit what a running server tells."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bootserve.watch.ledger import End
from bootserve.watch.liveness import Verdict
from tests import needs
from tests.downloads import CONFIG, assets, request
from tests.family import family, is_running
from tests.real import server
from tests.real.process import Process, wait_until
from tests.tftp import clients

DEADLINE = 60

_DOCS = Path(__file__).parent.parent / "docs"
_ALERTS = _DOCS / "prometheus" / "alerts.yml"
_GUIDE = _DOCS / "operating.md"
_DASHBOARD = _DOCS / "grafana" / "bootserve.json"
_METRIC = re.compile(r"\b(?:bootserve|process)_[a-z_]+")
_TARGETS = frozenset({"job", "instance"})
"""Labels that Prometheus adds."""

_VARIABLES = {"$__rate_interval": "5m", "$job": "bootserve", "$instance": ".+"}


@dataclass(frozen=True)
class _Running:
    scrape: str


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Running]:
    """A server that has served both doors, and been left in the middle."""
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "root" / "x86_64").mkdir(parents=True)
    (folder / "root" / "x86_64" / "vmlinuz").write_bytes(bytes(2 << 20))
    config = folder / "bootserve.toml"
    config.write_text(
        '[http]\nlisten = ["127.0.0.1:0"]\n[tftp]\nlisten = ["127.0.0.1:0"]\n'
        f'[assets]\nroots = ["root"]\n[service]\nruntime_dir = "{folder}/run"\n'
    )
    process = server.start(config)
    try:
        http = int(process.wait_for(r"^HTTP .*http://127\.0\.0\.1:(\d+)", 10)[1])
        tftp = int(process.wait_for(r"^TFTP .*127\.0\.0\.1:(\d+)", 10)[1])
        curl, got = needs.program("curl", "curl"), folder / "got"
        url = f"http://127.0.0.1:{http}"
        downloads = [[curl, "-sS", "-o", str(got), f"{url}/boot/x86_64/vmlinuz"]] + [
            client("127.0.0.1", tftp, "x86_64/vmlinuz", got)
            for client in (clients.curl(), clients.tftp_hpa())
        ]
        for command in downloads:
            subprocess.run(command, timeout=DEADLINE, check=True)
            assert got.read_bytes() == bytes(2 << 20)
            got.unlink()
        for path in ("/boot.ipxe", "/machine.ipxe?mac=52:54:00:00:00:01"):
            urllib.request.urlopen(url + path, timeout=DEADLINE).close()

        def scrape() -> str:
            with urllib.request.urlopen(f"{url}/metrics", timeout=DEADLINE) as answer:
                return str(answer.read().decode())

        wait_until(lambda: _ended(scrape()) == len(downloads), DEADLINE, "the ends")
        yield _Running(scrape())
    finally:
        process.stop()


def _ended(scrape: str) -> float:
    return sum(
        sample.value
        for metric in text_string_to_metric_families(scrape)
        for sample in metric.samples
        if sample.name == "bootserve_transfers_total" and sample.labels["end"] == "complete"
    )


@pytest.fixture(scope="module")
def exposed(running: _Running) -> dict[str, dict[str, set[str]]]:
    """The values of each label of each sample's name."""
    found: dict[str, dict[str, set[str]]] = {}
    for metric in text_string_to_metric_families(running.scrape):
        for sample in metric.samples:
            labels = found.setdefault(sample.name, defaultdict(set))
            for label, value in sample.labels.items():
                labels[label].add(value)
    return found


def _promtool(*words: str | Path, given: str = "", cwd: Path | None = None) -> None:
    done = subprocess.run(
        [needs.program("promtool", "prometheus"), *words],
        input=given,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_finds_nothing_wrong_with_the_names(running: _Running) -> None:
    _promtool("check", "metrics", given=running.scrape)


def test_the_alerts_are_rules() -> None:
    _promtool("check", "rules", "--lint=all", "--lint-fatal", _ALERTS)


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    _promtool("test", "rules", "alerts_test.yml", cwd=_ALERTS.parent)


def _alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", _ALERTS.read_text())


@pytest.mark.parametrize("alert", _alerts())
def test_each_alert_is_seen_to_fire_and_not_to(alert: str) -> None:
    text = (_ALERTS.parent / "alerts_test.yml").read_text()
    cases = re.findall(rf"- alertname: {alert}\n +eval_time: \w+\n(?= *(\S+))", text + "-")
    assert {case == "exp_alerts:" for case in cases} == {True, False}


@pytest.mark.parametrize("alert", _alerts())
def test_each_alert_is_explained(alert: str) -> None:
    rule = _ALERTS.read_text().split(f"- alert: {alert}\n")[1].split("- alert:")[0]
    assert re.findall(r"runbook: (.*)", rule) == [f"docs/operating.md#{alert.lower()}"]
    assert f"\n### {alert}\n" in _GUIDE.read_text()


def _alert_expressions() -> list[str]:
    # As YAML has it: in the same line, or indented below.
    text = _ALERTS.read_text()
    found = re.findall(r"^ +expr: (?:\|\n((?: {10,}.*\n)+)|(.+)\n)", text, re.MULTILINE)
    return [below or beside for below, beside in found]


def _dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_DASHBOARD.read_text())
    return found


def _dashboard_expressions() -> list[str]:
    found = []
    for panel in _dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in _VARIABLES.items():
                expression = expression.replace(name, value)
            assert "$" not in expression, expression
            found.append(expression)
    return found


def _check_names(expressions: list[str], exposed: dict[str, dict[str, set[str]]]) -> None:
    for expression in expressions:
        for name in _METRIC.findall(expression):
            assert name in exposed, expression
        for name, selectors in re.findall(r"(\w+)\{([^}]*)\}", expression):
            for label, how, value in re.findall(r'(\w+)(=~?)"([^"]*)"', selectors):
                if label not in _TARGETS:
                    values = exposed[name][label]
                    for one in value.split("|") if how == "=~" else [value]:
                        assert one in values, expression
        known = {label for name in _METRIC.findall(expression) for label in exposed[name]}
        for labels in re.findall(r"\bby \(([^)]*)\)", expression):
            assert set(labels.split(", ")) <= known | _TARGETS, expression


def test_the_alerts_know_what_a_server_tells(exposed: dict[str, dict[str, set[str]]]) -> None:
    expressions = _alert_expressions()
    assert len(expressions) == len(_alerts())
    _check_names(expressions, exposed)


def test_the_dashboard_shows_what_a_server_tells(
    exposed: dict[str, dict[str, set[str]]], tmp_path: Path
) -> None:
    expressions = _dashboard_expressions()
    assert len(expressions) > 30
    _check_names(expressions, exposed)
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions)
    ]
    # JSON is YAML.
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    _promtool("check", "rules", path)


def test_the_dashboard_is_one_that_can_be_imported(
    exposed: dict[str, dict[str, set[str]]],
) -> None:
    dashboard = _dashboard()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert "id" not in dashboard, "it is the number of one in somebody's database"
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "instance"}
    for name in ("job", "instance"):
        assert set(_METRIC.findall(variables[name]["definition"])) <= set(exposed)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert {t["datasource"]["uid"] for t in panel["targets"]} == {"${datasource}"}
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells


def _documented() -> dict[str, set[str]]:
    """Each metric with its labels, from the table."""
    table = _GUIDE.read_text().split("### What is counted\n")[1].split("\n## ")[0]
    return {
        name: set(filter(None, labels.split(",")))
        for line in table.splitlines()
        if line.startswith("| `")
        for name, labels in re.findall(r"`(\w+)(?:\{([^}]*)\})?`", line.split("|")[1])
    }


def test_every_metric_is_documented_with_its_labels(running: _Running) -> None:
    told = {}
    for metric in text_string_to_metric_families(running.scrape):
        # The parser calls counters by their names without the suffix.
        name = metric.name + ("_total" if metric.type == "counter" else "")
        told[name] = {label for s in metric.samples for label in s.labels} - {"le"}
    assert _documented() == told


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("What a client does", {verdict.value for verdict in Verdict}),
        ("How a transfer ends", {end.token for end in End}),
    ],
)
def test_every_verdict_and_end_is_explained(heading: str, words: set[str]) -> None:
    table = _GUIDE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == words
    if heading == "How a transfer ends":
        rows = re.findall(r"^\| `(\w+)` *\| ([^|]*?) *\|", table, re.MULTILINE)
        assert dict(rows) == {end.token: end.value for end in End}


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_guides_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", _GUIDE.read_text())
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        path = (_GUIDE.parent / name).resolve() if name else _GUIDE
        assert path.is_file(), link
        if anchor:
            assert anchor in _anchors(path), link


Query = Callable[[str], dict[str, float]]
"""Asks for an expression; the values, by instance."""


@contextlib.contextmanager
def _prometheus(folder: Path, http: int) -> Iterator[Query]:
    """A Prometheus with our alerts that scrapes a server once in a second."""
    folder.mkdir()
    port = server.free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(_ALERTS)],
        "scrape_configs": [
            {"job_name": "bootserve", "static_configs": [{"targets": [f"127.0.0.1:{http}"]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        needs.program("prometheus", "prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def query(expression: str) -> dict[str, float]:
        asked = urllib.parse.urlencode({"query": expression})
        url = f"http://127.0.0.1:{port}/api/v1/query?{asked}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
            return {one["metric"].get("instance", ""): float(one["value"][1]) for one in found}
        return {}

    with Process("prometheus", command, folder) as process, process.shown_on_failure():
        yield query


def test_prometheus_follows_an_upgrade(tmp_path: Path) -> None:
    assets(tmp_path)
    with family(tmp_path, CONFIG) as site:
        http, _ = site.ports()
        instance = f"127.0.0.1:{http}"
        urllib.request.urlopen(f"http://{instance}/boot.ipxe", timeout=DEADLINE).close()
        with (
            request(http, "big", buffer=4096),
            _prometheus(tmp_path / "prometheus", http) as query,
        ):
            started, boots = "process_start_time_seconds", "bootserve_boots_total"
            wait_until(lambda: instance in query(started), DEADLINE, "a scrape")
            began = query(started)[instance]
            assert query("bootserve_healthy") == query(boots) == {instance: 1}
            in_flight = "sum by (instance) (bootserve_transfers_in_flight)"
            assert query(in_flight) == {instance: 1}
            site.replace()
            wait_until(lambda: query(started)[instance] > began, DEADLINE, "the new process")
            assert is_running(site.pid), "the old one was to be there still, with its transfer"
            assert query("min_over_time(up[1m])") == {instance: 1}, "a scrape was lost"
            assert query(boots) == query(in_flight) == {instance: 0}
            assert query("ALERTS") == {}
