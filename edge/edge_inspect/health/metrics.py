"""The same numbers for Prometheus: one table of metrics, and a collector that reads it when a scraper asks.

1. Nothing is counted here: each row reads a counter that exists, at the moment of the scrape.
2. Names and units follow Prometheus' conventions: base units, `_total` for what only goes up.
3. A row without a value (no broker, no thermal zone) gives no sample: absent, never a zero that means nothing.
4. docs/metrics.md holds this table; a test keeps the two in step.

    page = metrics_page(appliance.observe)
    content_type, text = page(accept_header)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from edge_inspect.counts import Durations
from edge_inspect.health.observed import Observed, dropped, saved_bytes, stages
from edge_inspect.line.protocol import LATE
from edge_inspect.line.reject import RejectCounts

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0)
"""Upper edges of the histograms' buckets: around the deadlines of lines, 20 to 500 ms."""

Sample = tuple[tuple[str, ...], float]
"""Label values and the value."""


class Row(NamedTuple):
    """One metric that is a number."""

    name: str
    """Ends in _total when it only goes up."""
    labels: tuple[str, ...]
    text: str
    read: Callable[[Observed], Iterable[Sample]]


def _one(read: Callable[[Observed], float | None]) -> Callable[[Observed], Iterable[Sample]]:
    def samples(seen: Observed) -> Iterator[Sample]:
        value = read(seen)
        if value is not None:
            yield (), value

    return samples


def _each_camera(read: Callable[[Any], float]) -> Callable[[Observed], Iterable[Sample]]:
    return lambda seen: [((camera.name,), read(camera)) for camera in seen.cameras]


def _each_line(read: Callable[[Any], float]) -> Callable[[Observed], Iterable[Sample]]:
    return lambda seen: [((name,), read(counts)) for name, counts in seen.lines.items()]


def _each_gate(read: Callable[[RejectCounts], float]) -> Callable[[Observed], Iterable[Sample]]:
    return lambda seen: [((name,), read(counts)) for name, counts in seen.rejects.items()]


def _of_evidence(key: str) -> Callable[[Observed], Iterable[Sample]]:
    return _one(lambda seen: None if seen.evidence is None else float(getattr(seen.evidence, key)))


def _of_outbox(key: str) -> Callable[[Observed], Iterable[Sample]]:
    return _one(lambda seen: None if seen.outbox is None else float(getattr(seen.outbox, key)))


def _of_link(key: str) -> Callable[[Observed], Iterable[Sample]]:
    return _one(lambda seen: None if seen.link is None else float(getattr(seen.link.counts, key)))


def _parts(seen: Observed) -> Iterator[Sample]:
    for camera in seen.cameras:
        yield (camera.name, "OK", "no-defect"), camera.counts.ok + camera.counts.withdrawn
        yield (camera.name, "NG", "defect"), camera.counts.ng
        for reason, number in dict(camera.counts.unknown).items():
            yield (camera.name, "UNKNOWN", reason), number


def _answers(seen: Observed) -> Iterator[Sample]:
    for name, counts in seen.lines.items():
        yield (name, "OK", "no-defect"), counts.ok + counts.withdrawn["OK"]
        yield (name, "NG", "defect"), counts.ng + counts.withdrawn["NG"]
        for reason, number in dict(counts.unknown).items():
            yield (name, "UNKNOWN", reason), number


def _withdrawn(seen: Observed) -> list[Sample]:
    return [((name, kind), counts.withdrawn[kind]) for name, counts in seen.lines.items() for kind in ("OK", "NG")]


def _late(seen: Observed) -> Iterator[Sample]:
    return ((labels[:2], number) for labels, number in _counted(seen) if labels[2] == LATE)


def _adapter_events(seen: Observed) -> Iterator[Sample]:
    return ((labels, number) for labels, number in _counted(seen) if labels[2] != LATE)


def _counted(seen: Observed) -> Iterator[Sample]:
    """(line, adapter, name of the count)"""
    for line, adapters in seen.adapters.items():
        for adapter, counts in adapters.items():
            for name, number in counts.items():
                yield (line, adapter, name), number


def _dropped(seen: Observed) -> list[Sample]:
    return [((camera.name, why), number) for camera in seen.cameras for why, number in dropped(camera).items()]


def _ring(seen: Observed) -> list[Sample]:
    return [((camera.name, state), number) for camera in seen.cameras for state, number in camera.ring.items()]


def _failures(seen: Observed) -> list[Sample]:
    return [((code,), number) for code, number in seen.link.counts.failures.items()] if seen.link else []


def _update(seen: Observed) -> list[Sample]:
    return [((seen.update.stage,), 1.0)] if seen.update else []


def _models(seen: Observed) -> Iterator[Sample]:
    if (update := seen.update) is not None:
        yield ("active", update.active), 1.0
        if update.candidate is not None:
            yield ("candidate", update.candidate.digest), 1.0


def _refusal(seen: Observed) -> list[Sample]:
    last = seen.update.refused if seen.update else None
    return [((last.code, last.digest), last.at.timestamp())] if last else []


def _alarms(seen: Observed) -> list[Sample]:
    return [((code,), 1.0) for code in sorted({alarm.code for alarm in seen.alarms})]


ROWS = (
    Row("uptime_seconds", (), "Since the daemon started.", _one(lambda seen: seen.uptime_s)),
    Row("camera_up", ("camera",), "1 while the camera gives pictures.", _each_camera(lambda c: c.state == "up")),
    Row("camera_trouble", ("camera", "reason"), "1 while the camera is lost or shows a dead picture, by reason.",
        lambda seen: [((c.name, c.trouble), 1.0) for c in seen.cameras if c.trouble]),
    Row("camera_reconnects_total", ("camera",), "Times the camera came back after it was lost.",
        _each_camera(lambda c: c.counts.reconnects)),
    Row("frames_total", ("camera",), "Frames the inspection has taken.", _each_camera(lambda c: c.counts.frames)),
    Row("frames_dropped_total", ("camera", "reason"),
        "Frames that were not inspected: `overrun` (too many came), `frames-lost` (before they reached us), or what "
        "was wrong with the picture. Parts on them are UNKNOWN.", _dropped),
    Row("frame_bytes_total", ("camera",),
        "Inspected frames times width x height x 3 bytes: what sending them uncompressed would have taken. "
        "Nobody would: see `every_frame_jpeg_bytes_total`.",
        _each_camera(lambda c: c.counts.frames * c.frame_bytes)),
    Row("every_frame_jpeg_bytes_total", ("camera",),
        "Estimate: inspected frames times the mean size of those that were encoded as JPEG for the evidence. Absent "
        "before the first such frame.",
        lambda seen: [((name,), number) for name, number in seen.every_frame_bytes.items()]),
    Row("inferences_total", ("camera",), "Runs of the network.", _each_camera(lambda c: c.counts.inferences)),
    Row("parts_total", ("camera", "verdict", "reason"),
        "Parts by verdict and its reason. An OK that the line was told as UNKNOWN in the end is among both, see "
        "`line_answers_withdrawn_total`.", _parts),
    Row("ring_slots", ("camera", "state"), "Slots of the frame ring by state.", _ring),
    Row("line_triggers_total", ("line",), "Triggers that came, repeated ones too.", _each_line(lambda c: c.triggers)),
    Row("line_answers_total", ("line", "verdict", "reason"), "What the line was told, by verdict and its reason.",
        _answers),
    Row("line_answers_withdrawn_total", ("line", "verdict"),
        "Of the OK and NG among them, those that an adapter could put out only as UNKNOWN `deadline`: counted there, "
        "too.", _withdrawn),
    Row("line_deadlines_missed_total", ("line",),
        "Parts that had no verdict by their deadline less `margin_ms`, and were answered UNKNOWN for it. Whether that "
        "answer was out in time, `line_answers_late_total` says.",
        _each_line(lambda c: c.missed_deadlines)),
    Row("line_answers_late_total", ("line", "adapter"),
        "Answers that the adapter could not put out before their part's deadline, every one of them UNKNOWN in the end "
        "(on wires: NG).", _late),
    Row("line_adapter_events_total", ("line", "adapter", "event"),
        "What went otherwise than it should between the adapter and the outside, by event (docs/line.md).",
        _adapter_events),
    Row("line_late_verdicts_total", ("line",), "Verdicts that came after the line was told something else.",
        _each_line(lambda c: c.late_verdicts)),
    Row("line_sequence_repeated_total", ("line",), "Triggers with a sequence number that was known already.",
        _each_line(lambda c: c.repeated)),
    Row("line_sequence_skipped_total", ("line",), "Sequence numbers that never came.", _each_line(lambda c: c.skipped)),
    Row("line_rejects_total", ("line",), "Parts for which the reject gate was due.", _each_gate(lambda c: c.rejected)),
    Row("line_rejects_missed_total", ("line",), "Of these, those not driven out, or not seen in the bin.",
        _each_gate(lambda c: c.missed)),
    Row("outbox_reports", (), "Reports that the plant does not have yet.", _of_outbox("depth")),
    Row("outbox_oldest_seconds", (), "Age of the oldest of them, by the wall clock.", _of_outbox("oldest_age_s")),
    Row("outbox_bytes", (), "What the outbox takes on disk.", _of_outbox("size_bytes")),
    Row("outbox_pictures_shed_total", (), "Reports whose picture was given up to save room, in this epoch.",
        _of_outbox("pictures_shed")),
    Row("outbox_dropped_total", (), "Reports that could not be kept: results that are lost.", _of_outbox("dropped")),
    Row("outbox_recovered_total", (), "Reports that an earlier life had told its line before it was killed, put at the "
        "start.", _of_outbox("recovered")),
    Row("evidence_pictures", (), "Pictures of parts that lie on this box.", _of_evidence("pictures")),
    Row("evidence_bytes", (), "What they and their index take on disk.", _of_evidence("size_bytes")),
    Row("evidence_stored_total", (), "Pictures written.", _of_evidence("stored")),
    Row("evidence_pruned_total", (), "Pictures removed to make room, or for their age.", _of_evidence("pruned")),
    Row("evidence_skipped_total", (), "Parts whose picture was let go: too many came, or the disk was slow or failing.",
        _of_evidence("skipped")),
    Row("evidence_failed_total", (), "Parts whose picture was taken and could not be written.", _of_evidence("failed")),
    Row("link_up", (), "1 while connected to the broker.",
        _one(lambda seen: float(seen.link.connected) if seen.link else None)),
    Row("link_sent_bytes_total", (), "MQTT packets handed to the broker; without TLS and TCP framing.",
        _of_link("bytes_sent")),
    Row("saved_estimated_bytes", (), "Estimate: `every_frame_jpeg_bytes_total` of all cameras less "
        "`link_sent_bytes_total`, what sending every frame would have taken more. Below 0 while hardly any frame came.",
        _one(saved_bytes)),
    Row("link_reports_total", (), "Reports that the broker confirmed; repeats count again.", _of_link("reports_sent")),
    Row("link_connects_total", (), "Connections that were made.", _of_link("connects")),
    Row("link_failures_total", ("code",), "Connections that failed or ended, by code.", _failures),
    Row("update_stage", ("stage",), "1 for the stage in which a model's update is; `idle`: none is under way.",
        _update),
    Row("update_progress", (), "How far that stage is, 0 to 1.",
        _one(lambda seen: seen.update.progress if seen.update else None)),
    Row("model", ("role", "digest"), "1 for the model that judges (`active`) and the one that is tried (`candidate`).",
        _models),
    Row("update_refused_timestamp_seconds", ("code", "digest"), "When a model was refused or taken back last.",
        _refusal),
    Row("alarm", ("code",), "1 while something works worse than it should.", _alarms),
    Row("thread_still_seconds", ("thread",), "How long the thread has stood still; 10 to 12 s end the process.",
        lambda seen: [((name,), age_s) for name, age_s in seen.threads.items()]),
    Row("log_lines_lost_total", (), "Lines of the log, or of the verdicts on stdout, that nobody took in time.",
        _one(lambda seen: float(seen.log_lines_lost))),
    Row("resident_memory_bytes", (), "Memory of the process.", _one(lambda seen: float(seen.rss_bytes))),
    Row("temperature_celsius", (), "The hottest thermal zone of the box.", _one(lambda seen: seen.temperature_c)),
)  # fmt: skip

STAGES = Row(
    "stage_seconds", ("camera", "stage"),
    "Time between capture and verdict: `capture` (until taken), `letterbox`, `inference`, `decode`, `judge`, and "
    "`total` of each part.", lambda seen: (),
)  # fmt: skip
ANSWERED = Row("line_answer_seconds", ("line",), "Trigger to answer told.", lambda seen: ())
BUILD = Row("build_info", ("version", "python", "device"), "Always 1; the labels say what runs.", lambda seen: ())
PREFIX = "edge_inspect_"


def kind_of(row: Row) -> str:
    if row in (STAGES, ANSWERED):
        return "histogram"
    return "counter" if row.name.endswith("_total") else "gauge"


class Numbers(Collector):
    """Observes once a scrape and reads every row of it."""

    def __init__(self, observe: Callable[[], Observed]) -> None:
        self._observe = observe

    def describe(self) -> list[Metric]:
        """Nothing: names are known only from a scrape, and registering must not make one."""
        return []

    def collect(self) -> Iterator[Metric]:
        seen = self._observe()
        for row in ROWS:
            family = CounterMetricFamily if kind_of(row) == "counter" else GaugeMetricFamily
            metric = family(PREFIX + row.name, row.text, labels=row.labels)
            for labels, value in row.read(seen):
                metric.add_metric(labels, float(value))
            yield metric
        timed = [((c.name, name), took) for c in seen.cameras for name, took in stages(c.counts).items()]
        yield _histogram(STAGES, timed)
        yield _histogram(ANSWERED, (((name,), counts.latency) for name, counts in seen.lines.items()))
        build = GaugeMetricFamily(PREFIX + BUILD.name, BUILD.text, labels=BUILD.labels)
        build.add_metric((seen.version, seen.python, seen.device), 1)
        yield build


def _histogram(row: Row, timed: Iterable[tuple[tuple[str, ...], Durations]]) -> Metric:
    metric = HistogramMetricFamily(PREFIX + row.name, row.text, labels=row.labels)
    for labels, durations in timed:
        sum_s = durations.total_ns / 1e9
        counts = durations.at_most(BOUNDS_S)
        edges = [*(str(bound) for bound in BOUNDS_S), "+Inf"]
        metric.add_metric(labels, list(zip(edges, map(float, counts), strict=True)), sum_s)
    return metric


def metrics_page(observe: Callable[[], Observed]) -> Callable[[str], tuple[str, bytes]]:
    """(Accept header) -> (content type, text), for a scraper."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Numbers(observe))

    def page(accept: str) -> tuple[str, bytes]:
        encode, kind = choose_encoder(accept)
        return kind, encode(registry)

    return page


def metrics_table() -> str:
    """The table in docs/metrics.md."""
    lines = ["| metric | kind | labels | what it says |", "|---|---|---|---|"]
    for row in (*ROWS, STAGES, ANSWERED, BUILD):
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{PREFIX}{row.name}` | {kind_of(row)} | {labels} | {row.text} |")
    return "\n".join(lines) + "\n"
