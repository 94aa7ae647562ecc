"""A scan as metrics, by Prometheus' naming conventions. May depend on: objects, latest, scan, prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from ..scan.snapshot import Snapshot
from ..scan.survey import Survey
from .latest import Latest
from .objects import Series, series

Found = tuple[Snapshot, Survey]
REMEDIES = ("shared", "leaves_2m", "leaves_1g")
_OBJECT = ("object", "kind")


class Metrics(Collector):
    """Everything a scrape gets. `most` objects have series of their own."""

    def __init__(self, latest: Latest[Found], most: int, version: str) -> None:
        self._latest = latest
        self._most = most
        self._version = version

    def describe(self) -> list[Metric]:
        """Return nothing: registering must not scan."""
        return []

    def collect(self) -> Iterator[Metric]:
        scan = self._latest.get()
        yield InfoMetricFamily("mshare_build", "The mshare that answers.", {"version": self._version})
        yield _gauge("mshare_scan_success", "1 if the last scan worked.", float(scan.found is not None))
        yield _gauge("mshare_scan_duration_seconds", "How long the last scan took.", scan.seconds)
        yield CounterMetricFamily("mshare_scan_errors", "Scans that failed.", scan.failures)
        if scan.found is not None:
            yield from _totals(*scan.found)
            yield from _objects(series(scan.found[1].usages, self._most))


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value)


def _totals(snapshot: Snapshot, survey: Survey) -> Iterator[Metric]:
    totals = survey.totals
    yield _gauge("mshare_scan_timestamp_seconds", "When the last scan was taken.", snapshot.taken)
    yield _gauge("mshare_page_tables_bytes", "PageTables of /proc/meminfo.", totals.page_tables)
    yield _gauge("mshare_memory_bytes", "MemTotal of /proc/meminfo.", snapshot.system.memory.get("MemTotal", 0))
    yield _gauge(
        "mshare_page_tables_explained_bytes",
        "The part of PageTables that processes and regions have.",
        totals.page_tables - totals.unexplained,
    )
    yield _gauge(
        "mshare_page_tables_unexplained_bytes",
        "The rest of PageTables; negative where processes ended during the scan.",
        totals.unexplained,
    )
    read = sum(process.areas is not None for process in snapshot.processes)
    yield _gauge("mshare_processes", "Processes whose mappings were read.", read)
    yield _gauge(
        "mshare_unreadable_processes",
        "Processes whose mappings are closed to the exporter.",
        sum(each.processes for each in survey.unreadable),
    )
    yield _gauge("mshare_unreadable_bytes", "Their page tables (VmPTE).", totals.unreadable)
    yield _gauge("mshare_vanished_processes", "Processes that ended during the scan.", snapshot.vanished)
    yield _gauge("mshare_objects", "Objects that processes map, also those without series.", len(survey.usages))


def _objects(found: list[Series]) -> Iterator[Metric]:
    now = GaugeMetricFamily("mshare_page_table_bytes", "Page tables of an object, the likely value.", labels=_OBJECT)
    lower = GaugeMetricFamily("mshare_page_table_lower_bytes", "Page tables of an object, at least.", labels=_OBJECT)
    upper = GaugeMetricFamily("mshare_page_table_upper_bytes", "Page tables of an object, at most.", labels=_OBJECT)
    processes = GaugeMetricFamily("mshare_object_processes", "Processes that map an object.", labels=_OBJECT)
    size = GaugeMetricFamily("mshare_object_size_bytes", "Bytes of an object that are mapped.", labels=_OBJECT)
    what_if = GaugeMetricFamily(
        "mshare_object_what_if_bytes",
        "Page tables of an object with one shared set of tables, or with 2 MiB or 1 GiB leaves: arithmetic.",
        labels=(*_OBJECT, "remedy"),
    )
    for each in found:
        labels = (each.object, each.kind)
        now.add_metric(labels, each.now.likely)
        lower.add_metric(labels, each.now.lower)
        upper.add_metric(labels, each.now.upper)
        processes.add_metric(labels, each.processes)
        size.add_metric(labels, each.size)
        if each.what_if is not None:
            for remedy in REMEDIES:
                what_if.add_metric((*labels, remedy), getattr(each.what_if, remedy))
    yield from (now, lower, upper, processes, size, what_if)
