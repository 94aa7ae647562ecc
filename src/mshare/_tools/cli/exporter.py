"""`mshare exporter`: metrics for Prometheus. May depend on: _console, _exits, _extras, _snapshots, _tools.exporter,
_tools.scan, collect, mshare, prometheus_client, typer."""

from __future__ import annotations

import sys
from importlib.resources import files
from typing import Annotated

import typer

from ... import __version__
from ..collect import collect
from ..scan.snapshot import Snapshot
from ..scan.survey import Survey, survey
from ._console import not_nan
from ._exits import UsageError
from ._extras import extra
from ._snapshots import region_names

EXAMPLES = """
mshare exporter
mshare exporter --listen '[::1]:9779' --objects 50
mshare exporter --once > mshare.prom.new && mv mshare.prom.new mshare.prom
mshare exporter --print alerts > /etc/prometheus/mshare.yml
"""

_FILES = {"dashboard": "dashboard.json", "alerts": "alerts.yml"}


def command(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to answer scrapes.")] = "127.0.0.1:9779",
    objects: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="So many objects have series of their own; 1 to 1000.")
    ] = 20,
    max_age: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, max=3600, callback=not_nan, help="A scan this old is good for another scrape."
        ),
    ] = 5,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics, and end.")] = False,
    what: Annotated[
        str | None,
        typer.Option(
            "--print", metavar="WHAT", help="Print the Grafana dashboard or the alert rules: dashboard, alerts."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Errors as JSON. Metrics have a format of their own.")
    ] = False,
) -> None:
    """Give Prometheus what page tables cost.

    The exporter makes one scan per scrape, without --exact. It ends at SIGTERM or Ctrl-C with 0. docs/exporter.md has a
    systemd unit, the rights that the exporter may need, and the meaning of the metrics. Needs the extra `exporter`.
    """
    del as_json  # `run` looks at it
    if what is not None:
        if what not in _FILES:
            raise UsageError(f"--print {what} is not one of {', '.join(_FILES)}")
        sys.stdout.write((files("mshare._tools.exporter") / _FILES[what]).read_text())
        return
    with extra("exporter"):
        from prometheus_client import CollectorRegistry, generate_latest

        from ..exporter.latest import Latest
        from ..exporter.metrics import Metrics
        from ..exporter.server import parse_address, serve
    address = parse_address(listen)
    latest = Latest(_read, max_age)
    registry = CollectorRegistry()
    registry.register(Metrics(latest, objects, __version__))
    if not once:
        serve(registry, address)
        return
    sys.stdout.write(generate_latest(registry).decode())
    if latest.get().failures:
        raise typer.Exit(1)


def _read() -> tuple[Snapshot, Survey]:
    snapshot = collect(regions=region_names())
    return snapshot, survey(snapshot)
