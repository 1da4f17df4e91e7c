"""What a scraper gets is what Prometheus' own parser understands, and what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from edge_inspect.counts import LaneCounts, LineCounts
from edge_inspect.delivery.jpeg_sizes import REMEMBERED, JpegSizes
from edge_inspect.health.metrics import BOUNDS_S, PREFIX, ROWS, kind_of, metrics_page, metrics_table
from edge_inspect.health.observed import LinkPulse, Observed, status
from edge_inspect.health.saved import EveryFrame
from edge_inspect.health.vitals import CameraPulse
from edge_inspect.line.reject import RejectCounts
from edge_wire import messages as wire

ROOT = Path(__file__).resolve().parents[3]
MS = 1_000_000


def camera(name: str = "left", state: str = "up") -> CameraPulse:
    counts = LaneCounts(reconnects=2, camera_missed=3, frames=100, inferences=40, parts=12, ok=9, ng=2)
    counts.unknown["camera-lost"] = 1
    counts.broken["truncated"] = 4
    for ms in (8, 9, 60):
        counts.latency.add(ms * MS)
    ring = {"free": 3, "filling": 1, "ready": 0, "in use": 0}
    return CameraPulse(name, state, counts, 5, None, "cpu", ring=ring, frame_bytes=1000, trouble="")


def observed(**changed: object) -> Observed:
    lines = {"main": LineCounts(triggers=7, ok=5, ng=1, missed_deadlines=1)}
    lines["main"].unknown["deadline"] = 1
    outbox = wire.OutboxVitals(
        epoch="0123456789ab-0123456789abcdef",
        last_seq=9,
        depth=3,
        oldest_age_s=12.0,
        size_bytes=4096,
        pictures_shed=1,
        dropped=0,
    )
    link = LinkPulse(True, "", wire.LinkVitals(connects=2, failures={"silent": 1}, bytes_sent=500, reports_sent=6))
    rejects = {"main": RejectCounts(rejected=2, missed=1)}
    adapters = {"main": {"gpio": {"late": 3, "cut": 4}, "lamp": {}}}
    values = {
        "device": "site/line/edge", "version": "1.2", "python": "3.11", "uptime_s": 60.0, "cameras": [camera()],
        "lines": lines, "rejects": rejects, "adapters": adapters, "outbox": outbox, "link": link,
        "alarms": [wire.Degraded(code="outbox-full", detail="x")],
        "threads": {"inspect": 0.1}, "rss_bytes": 1 << 20, "temperature_c": None,
    }  # fmt: skip
    return Observed(**{**values, **changed})  # type: ignore[arg-type]


def scrape(seen: Observed) -> dict[tuple[str, ...], float]:
    """{(name, label values in the order of their names): value}"""
    kind, text = metrics_page(lambda: seen)("")
    assert kind.startswith("text/plain")
    samples = [sample for family in parse(text.decode()) for sample in family.samples]
    return {
        (sample.name.removeprefix(PREFIX), *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for sample in samples
    }


def test_every_counter_arrives_with_its_labels() -> None:
    found = scrape(observed())
    assert found[("frames_total", "left")] == 100
    assert found[("parts_total", "left", "camera-lost", "UNKNOWN")] == 1
    assert found[("parts_total", "left", "defect", "NG")] == 2
    assert found[("frames_dropped_total", "left", "overrun")] == 5
    assert found[("frames_dropped_total", "left", "truncated")] == 4
    assert found[("frame_bytes_total", "left")] == 100_000
    assert found[("ring_slots", "left", "free")] == 3
    assert found[("line_triggers_total", "main")] == 7
    assert found[("line_deadlines_missed_total", "main")] == 1
    assert found[("line_answers_late_total", "gpio", "main")] == 3
    assert found[("line_adapter_events_total", "gpio", "cut", "main")] == 4
    assert ("line_adapter_events_total", "gpio", "late", "main") not in found
    assert found[("line_rejects_total", "main")] == 2
    assert found[("line_rejects_missed_total", "main")] == 1
    assert found[("outbox_oldest_seconds",)] == 12
    assert found[("link_failures_total", "silent")] == 1
    assert found[("alarm", "outbox-full")] == 1
    assert found[("build_info", "site/line/edge", "3.11", "1.2")] == 1


def test_what_was_saved_is_an_estimate_and_absent_where_nothing_is_known() -> None:
    known = observed(every_frame_bytes={"left": 20_000})
    found = scrape(known)
    assert found[("every_frame_jpeg_bytes_total", "left")] == 20_000
    assert found[("saved_estimated_bytes",)] == 20_000 - 500
    told = status(known)
    assert told["saved_bytes_estimated"] == 19_500
    assert told["cameras"][0]["every_frame_jpeg_bytes_estimated"] == 20_000
    for nothing in (observed(), observed(every_frame_bytes={"left": 20_000}, link=None)):
        assert ("saved_estimated_bytes",) not in scrape(nothing)
        assert status(nothing)["saved_bytes_estimated"] is None


def test_what_every_frame_would_take_only_grows_and_is_claimed_only_once_a_frame_was_encoded() -> None:
    every_frame, sizes = EveryFrame(), JpegSizes()
    every_frame.look("left", 100, sizes.mean_bytes)
    assert every_frame.of("left") is None
    sizes.add(1000)
    every_frame.look("left", 150, sizes.mean_bytes)
    assert every_frame.of("left") == 150_000
    for _ in range(10 * REMEMBERED):
        sizes.add(400)
    every_frame.look("left", 150, sizes.mean_bytes)
    assert every_frame.of("left") == 150_000 and sizes.mean_bytes == pytest.approx(400, abs=1)
    every_frame.look("left", 160, sizes.mean_bytes)
    assert every_frame.of("left") == pytest.approx(154_000, abs=20)
    assert every_frame.of("right") is None


def test_status_tells_rejects_of_lines_that_have_a_gate_and_no_others() -> None:
    with_gate, without = status(observed())["lines"][0], status(observed(rejects={}))["lines"][0]
    assert (with_gate["rejected"], with_gate["rejects_missed"]) == (2, 1)
    assert with_gate["adapters"] == {"gpio": {"late": 3, "cut": 4}, "lamp": {}}
    assert (without["rejected"], without["rejects_missed"]) == (None, None)


def test_histogram_adds_up_and_counts_nobody_as_faster_than_it_was() -> None:
    found = scrape(observed())
    buckets = [found[("stage_seconds_bucket", "left", str(bound), "total")] for bound in BOUNDS_S]
    assert buckets == sorted(buckets)
    assert found[("stage_seconds_bucket", "left", "0.01", "total")] == 2
    assert found[("stage_seconds_bucket", "left", "+Inf", "total")] == 3
    assert found[("stage_seconds_count", "left", "total")] == 3
    assert found[("stage_seconds_sum", "left", "total")] == pytest.approx(0.077)
    assert found[("stage_seconds_count", "left", "letterbox")] == 0


def test_what_is_not_there_is_absent_and_not_zero() -> None:
    names = {key[0] for key in scrape(observed(link=None, outbox=None, alarms=[], lines={}, rejects={}, adapters={}))}
    assert not [name for name in names if name.startswith(("link_", "outbox_", "alarm", "line_", "temperature"))]


def test_openmetrics_is_spoken_to_who_asks_for_it() -> None:
    kind, text = metrics_page(observed)("application/openmetrics-text;version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert {family.name for family in parse_openmetrics(text.decode())} >= {PREFIX + "frames", PREFIX + "stage_seconds"}


def test_names_follow_the_conventions() -> None:
    for row in ROWS:
        assert (kind_of(row) == "counter") == row.name.endswith("_total")
        assert not row.name.endswith(("_ms", "_ns", "_count", "_sum", "_bucket"))


def test_page_in_the_docs_is_in_step() -> None:
    assert metrics_table() in (ROOT / "docs" / "metrics.md").read_text(), "put metrics_table() into docs/metrics.md"


def test_a_camera_that_never_opened_is_told_without_inventing_anything() -> None:
    dark = CameraPulse("dark", "lost", LaneCounts(), 0, None, None, trouble="camera-lost")
    found = scrape(observed(cameras=[dark]))
    assert found[("camera_up", "dark")] == 0
    assert found[("camera_trouble", "dark", "camera-lost")] == 1
    told = status(observed(cameras=[dark]))["cameras"][0]
    assert (told["latency_ms"], told["model"], told["ring"]) == ({"p50": None, "p99": None, "max": None}, None, {})
