"""`edge-inspect demo`: the whole appliance on a simulated line. No camera, no broker, no cloud needed.

Everything is the real thing but the camera: the model, the ring, the outbox, MQTT through a real broker, and a
subscriber that prints each defect as it arrives. The simulator knows the truth, so escapes and overkill are exact.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from edge_inspect.capture.protocol import Pixels
from edge_inspect.capture.ring import Slot
from edge_inspect.capture.sim import SimCamera
from edge_inspect.cli.broker import RunningBroker, demo_broker
from edge_inspect.cli.demo_plc import LEAST_FPS, PlcLine
from edge_inspect.cli.log import configure_log
from edge_inspect.cli.options import (
    AsJson,
    FrameLimit,
    ModelDir,
    MqttUrl,
    ProviderName,
    RecipeFile,
    StateDir,
    ThreadCount,
    check_provider,
)
from edge_inspect.cli.output import emit, size
from edge_inspect.cli.run import stop_on_signals
from edge_inspect.cli.scoring import DeepLook, Scorer
from edge_inspect.cli.summary import summary
from edge_inspect.cli.video_meter import VideoMeter
from edge_inspect.cli.watch import human_line
from edge_inspect.config import Config, broker_of, config_from_options
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.subscriber import Subscriber
from edge_inspect.errors import Refusal, Usage
from edge_inspect.inference.decode import Detections
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.parts import Look
from edge_wire.messages import DefectReport
from edge_wire.topics import subscription

EXAMPLES = """Examples:\n
  edge-inspect demo --parts 20\n
  edge-inspect demo --parts 200 --fast --json\n
  edge-inspect demo --plc --parts 20\n
  edge-inspect demo --mqtt mqtt://broker.plant --ng-share 0.05
"""
LISTEN_S = 10.0
ARRIVE_S = 10.0
"""How long the end waits until the subscriber has every report."""


def add(app: typer.Typer) -> None:
    app.command("demo", epilog=EXAMPLES)(demo)


def demo(
    parts: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stop after N parts. Without: until Ctrl-C.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Another seed, other plates.")] = 0,
    ng_share: Annotated[float, typer.Option(metavar="SHARE", min=0, max=1, help="Share of defective plates.")] = 0.1,
    fps: Annotated[float, typer.Option(min=1, max=240, help="Frames a second of the simulated camera.")] = 25.0,
    fast: Annotated[
        bool, typer.Option("--fast", help="As fast as this machine can, not at the camera's pace.")
    ] = False,
    plc: Annotated[bool, typer.Option("--plc", help="A simulated PLC triggers, and rejects what is not OK.")] = False,
    meter: Annotated[bool, typer.Option(help="Compare with an H.264 stream of the same pictures.")] = True,
    mqtt: MqttUrl = None,
    recipe: RecipeFile = None,
    model: ModelDir = None,
    provider: ProviderName = None,
    threads: ThreadCount = None,
    state: StateDir = None,
    frames: FrameLimit = None,
    as_json: AsJson = False,
) -> None:
    """A simulated line, the real model, a broker, and every defect as a subscriber sees it."""
    configure_log("warning", "text")
    console = Console(stderr=as_json, highlight=False)
    belt: dict[str, Any] = {"seed": seed, "parts": parts, "ng_share": ng_share, "fps": fps, "paced": not fast}
    line_plc = _plc_line(belt) if plc else None
    camera = line_plc.camera if line_plc else SimCamera(**belt)
    with ExitStack() as stack:
        broker = RunningBroker(mqtt, "given", "5") if mqtt else stack.enter_context(demo_broker())
        state = state or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-inspect-demo-")))
        config = _config(broker, state, recipe, model, check_provider(provider), threads)
        if line_plc:
            stack.enter_context(line_plc.running())
            config = line_plc.configure(config, recipe)
        line = DemoLine(camera, fps, meter, line_plc)
        appliance = Appliance(
            config, cameras={"line": camera}, watchers=(line.scorer, line), frames=frames, first_open_s=0.0
        )
        line.appliance = appliance
        stop = stack.enter_context(stop_on_signals())
        console.print(f"simulated line, seed {seed}; broker {broker.name} at {broker.url}; Ctrl-C ends")
        with listening(config, lambda report: line.arrived(report, console, quiet=as_json)):
            with Live(console=console, refresh_per_second=4, get_renderable=line.table, transient=True):
                appliance.run(stop)
                if line_plc:
                    line_plc.wait_for_the_gate()
                line.wait_for_arrivals(stop)
    result = line.result()
    console.print(line.table())
    console.print(line.words(result))
    if as_json:
        emit(result)
    if result["reports_arrived"] < result["reports"]:
        raise Refusal(f"{result['reports']} reports were made, only {result['reports_arrived']} arrived")


def _plc_line(belt: dict[str, Any]) -> PlcLine:
    if not belt["paced"]:
        raise Usage("--plc and --fast: a PLC's parts come at the belt's pace; raise --fps instead")
    if belt["fps"] < LEAST_FPS:
        raise Usage(f"--fps {belt['fps']:g}: with --plc at least {LEAST_FPS:g}")
    return PlcLine(**belt)


def _config(
    broker: RunningBroker,
    state: Path,
    recipe: Path | None,
    model: Path | None,
    provider: str | None,
    threads: int | None,
) -> Config:
    config = config_from_options(
        None, camera="sim", mqtt=broker.url, state=state, provider=provider, threads=threads, recipe=recipe,
        model=str(model) if model else None,
    )  # fmt: skip
    camera = config.camera[0].model_copy(update={"name": "line"})
    assert config.mqtt is not None
    mqtt = config.mqtt.model_copy(update={"protocol": 5 if broker.protocol == "5" else 311})
    return config.model_copy(update={"camera": (camera,), "mqtt": mqtt})


@contextmanager
def listening(config: Config, arrived: Callable[[DefectReport], None]) -> Iterator[None]:
    """A subscriber on a thread of its own, as `edge-inspect watch` is one elsewhere; returns once it listens."""
    assert config.mqtt is not None
    stop, ready = threading.Event(), threading.Event()
    broker = broker_of(config.mqtt)
    topic_filter = subscription("defect", site=config.device.site, line=config.device.line, device=config.device.device)
    subscriber = Subscriber(broker, topic_filter, tell=lambda line: ready.set() if "listening" in line else None)

    def listen() -> None:
        for report in subscriber.reports(stop):
            if report is not None:
                arrived(report)

    thread = threading.Thread(target=listen, name="subscriber")
    thread.start()
    try:
        if not ready.wait(LISTEN_S):
            raise Refusal(f"no broker at {broker.where} within {LISTEN_S:.0f} s")
        yield
    finally:
        stop.set()
        thread.join()


class DemoLine:
    """What the demo counts while it runs: a watcher of the pipeline and of the subscriber."""

    def __init__(self, camera: SimCamera, fps: float, meter: bool, plc: PlcLine | None = None) -> None:
        self.appliance: Appliance
        self.scorer = Scorer(DeepLook())
        self.ids: set[str] = set()
        self._camera = camera
        self._plc = plc
        self._fps = fps
        self._meter_wanted = meter
        self._meter: VideoMeter | None = None
        self._video_bytes: int | None = None
        self._arrived = threading.Condition()

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        if not self._meter_wanted:
            return
        if self._meter is None:
            height_px, width_px = slot.pixels.shape[:2]
            self._meter = VideoMeter(width_px, height_px, self._fps)
        self._meter.add(slot.pixels)

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        """The scorer keeps the verdicts."""

    def arrived(self, report: DefectReport, console: Console, *, quiet: bool) -> None:
        """Called by the subscriber's thread for each report, repeats left out."""
        with self._arrived:
            self.ids.add(str(report.id))
            self._arrived.notify_all()
        if not quiet:
            console.print(human_line(report))

    def wait_for_arrivals(self, stop: threading.Event) -> None:
        """Until the subscriber has what was reported, or ARRIVE_S."""
        wanted = sum(count.ng + count.unknown_total for count in self._counts())
        until = time.monotonic() + ARRIVE_S
        with self._arrived:
            while len(self.ids) < wanted and time.monotonic() < until and not stop.is_set():
                self._arrived.wait(0.2)

    def _counts(self) -> list[Any]:
        return [station.counts for station in self.appliance.stations.values()]

    def result(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        if self._meter is not None and self._video_bytes is None:
            self._video_bytes = self._meter.close()
        model = next(iter(self.appliance.stations.values())).package.manifest
        totals = summary(self.appliance)
        score = self.scorer.score(self._camera.truth(), model.classes)._asdict()
        saved = 1 - totals["bytes_sent"] / self._video_bytes if self._video_bytes else None
        return {
            **totals,
            **{name: score[name] for name in ("escapes", "overkill", "map50", "parts_missed", "parts_found_twice")},
            **(self._plc.result() if self._plc else {}),
            "reports_arrived": len(self.ids),
            "h264_bytes": self._video_bytes,
            "bytes_saved": None if saved is None else round(saved, 5),
        }

    def table(self) -> Table:
        """What the screen shows, four times a second."""
        if self._plc:
            return self._plc.table()
        totals = summary(self.appliance)
        score = self.scorer.score(self._camera.truth(), (), with_map50=False)
        latency = totals["latency_ms"]
        video = self._meter.bytes if self._meter else 0
        table = Table(title="edge-inspect demo: simulated line", box=box.SIMPLE, padding=(0, 1, 0, 0))
        headings = ("parts", "OK", "NG", "UNKNOWN", "escapes", "overkill", "p50/p99/max ms", "sent", "as H.264")
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_row(
            str(totals["parts"]), f"[green]{totals['ok']}", f"[red]{totals['ng']}", f"[yellow]{totals['unknown']}",
            str(score.escapes), str(score.overkill),
            "/".join("-" if latency[key] is None else f"{latency[key]:.0f}" for key in ("p50", "p99", "max")),
            size(totals["bytes_sent"]), size(video) if video else "-",
        )  # fmt: skip
        return table

    @staticmethod
    def words(result: dict[str, Any]) -> str:
        saved = f", {result['bytes_saved']:.2%} less than H.264" if result["bytes_saved"] is not None else ""
        return (
            f"{result['parts']} parts: {result['escapes']} escapes, {result['overkill']} overkill (the simulator knows "
            f"exactly); {result['reports_arrived']} of {result['reports']} reports arrived, "
            f"{size(result['bytes_sent'])} sent{saved}; {result['model']} on {result['provider']}"
        )
