"""The dashboard and the alert rules against a real Prometheus that scrapes a real exporter."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from mshare._core.units import MIB
from tests.helpers.mappers import Mapping, mapped
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.machine

LIMIT_S = 60
EXPORTER = (sys.executable, "-m", "mshare", "exporter")
DASHBOARD = json.loads((files("mshare._tools.exporter") / "dashboard.json").read_text())
ALERTS = (files("mshare._tools.exporter") / "alerts.yml").read_text()
RULES = re.findall(r"alert: (\w+)", ALERTS)
TARGETS = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs Debian's package prometheus, for the server and promtool",
)


def promtool(*args: str) -> str:
    done = subprocess.run(["promtool", *args], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
        return json.load(answer)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as there:
        return int(there.getsockname()[1])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[Any]]]:
    """Give a function that queries a Prometheus. It has scraped an exporter, beside processes with a large object."""
    place = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    command = [*EXPORTER, "--listen", "127.0.0.1:0", "--max-age", "0"]
    with (
        mapped(Mapping("memfd", 64 * MIB, processes=3)),
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as exporter,
    ):
        assert exporter.stderr is not None
        target = exporter.stderr.readline().split("//")[1].split("/")[0]
        (place / "alerts.yml").write_text(ALERTS)
        (place / "prometheus.yml").write_text(
            f"global: {{scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 1s}}\nrule_files: [alerts.yml]\n"
            f"scrape_configs:\n- {{job_name: mshare, static_configs: [{{targets: ['{target}']}}]}}\n"
        )
        with (place / "log").open("w") as log:
            server = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={place}/prometheus.yml",
                    f"--storage.tsdb.path={place}/data",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )

        def ask(expression: str) -> list[Any]:
            answer = get(f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
            assert answer["status"] == "success", answer
            return list(answer["data"]["result"])

        def scraped_twice() -> bool:
            with suppress(OSError):
                return any(float(each["value"][1]) >= 2 for each in ask("count_over_time(mshare_scan_success[5m])"))
            return False

        def rules() -> list[Any]:
            return [
                rule
                for group in get(f"http://127.0.0.1:{port}/api/v1/rules")["data"]["groups"]
                for rule in group["rules"]
            ]

        try:
            eventually(scraped_twice, f"two scrapes; the log is {place}/log")
            eventually(lambda: all(rule["health"] == "ok" for rule in rules()), "rules that were evaluated")
            assert {rule["name"] for rule in rules()} == set(RULES)
            yield ask
        finally:
            server.terminate()
            exporter.terminate()
            assert server.wait(LIMIT_S) == 0
            assert exporter.wait(LIMIT_S) == 0


def filled_in(expression: str) -> str:
    """Return an expression as Grafana would send it."""
    return expression.replace("$__rate_interval", "5m").replace("$instance", ".*")


@needs_prometheus
@pytest.mark.parametrize(("panel", "expression"), TARGETS)
def test_every_panel_has_data(prometheus: Callable[[str], list[Any]], panel: str, expression: str) -> None:
    assert prometheus(filled_in(expression)) != []


@needs_prometheus
@pytest.mark.parametrize("alert", RULES)
def test_every_alert_has_what_it_compares(prometheus: Callable[[str], list[Any]], alert: str) -> None:
    """With thresholds that everything passes each rule finds this machine; as it is, it can be evaluated."""
    rule = ALERTS.partition(f"alert: {alert}\n")[2].partition("for:")[0]
    expression = " ".join(
        re.sub(r"^ *#.*$", "", rule, flags=re.MULTILINE).partition("expr:")[2].replace(">-", "").split()
    )
    prometheus(expression)
    always = re.sub(r"(>|==) [\d.]+", "> -1e15", expression)
    assert always != expression
    assert prometheus(always) != []


@needs_prometheus
def test_the_numbers_are_this_machines(prometheus: Callable[[str], list[Any]]) -> None:
    (found,) = prometheus('mshare_object_processes{object="memfd:known"}')
    assert int(found["value"][1]) >= 3
    (up,) = prometheus('up{job="mshare"}')
    assert up["value"][1] == "1"


@needs_prometheus
def test_the_rules_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(ALERTS)
    promtool("check", "rules", str(tmp_path / "alerts.yml"))
    gib = 1 << 30
    series = {
        "quiet": f"{gib}+0x600",  # 1 of 100 GiB
        "large": f"{6 * gib}+0x600",
        "growing": f"{2 * gib}+{gib // 100}x600",  # 14 GiB a day
        "brief": f"{gib}x540 {6 * gib}x5 {gib}x55",  # large for five minutes
    }
    fired = {
        "PageTablesLarge": ["large", "growing"],
        "PageTablesGrowing": ["growing"],
        "MshareScanFailing": ["broken"],
    }
    lines = ["rule_files: [alerts.yml]", "tests:", "- interval: 1m", "  input_series:"]
    for instance, values in series.items():
        lines.append(f"  - {{series: 'mshare_page_tables_bytes{{instance=\"{instance}\"}}', values: '{values}'}}")
        lines.append(f"  - {{series: 'mshare_memory_bytes{{instance=\"{instance}\"}}', values: '{100 * gib}x700'}}")
    lines.append("  - {series: 'mshare_scan_success{instance=\"broken\"}', values: '0x700'}")
    lines.append("  - {series: 'mshare_scan_success{instance=\"quiet\"}', values: '1x700'}")
    lines.append("  promql_expr_test:")
    for alert, instances in fired.items():
        lines.append(f"  - expr: sum by (instance) (ALERTS{{alertname='{alert}', alertstate='firing'}})")
        lines.append("    eval_time: 9h10m")
        lines.append("    exp_samples:")
        lines += [f"    - {{labels: '{{instance=\"{instance}\"}}', value: 1}}" for instance in instances]
    (tmp_path / "test.yml").write_text("\n".join(lines) + "\n")
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "test.yml"))


def test_the_dashboard_has_what_its_format_needs() -> None:
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 36
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) >= 8
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["type"] in ("stat", "timeseries", "bargauge")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize(("what", "file"), [("dashboard", "dashboard.json"), ("alerts", "alerts.yml")])
def test_print_gives_the_file(what: str, file: str) -> None:
    done = subprocess.run([*EXPORTER, "--print", what], capture_output=True, check=True)
    assert done.stdout == (files("mshare._tools.exporter") / file).read_bytes()
    refused = subprocess.run([*EXPORTER, "--print", "x"], capture_output=True, check=False, text=True)
    assert refused.returncode == 2
    assert "dashboard, alerts" in refused.stderr
