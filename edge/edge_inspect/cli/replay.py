"""`edge-inspect replay SOURCE`: a recording through the whole appliance, losslessly and repeatably.

What is written into `--out`: report.jsonl (what would have left the edge, in the wire format; media time instead of
clocks, so that two runs are byte-identical), parts.jsonl (every part), index.html (pictures of the parts that were not
OK), summary.json.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edge_inspect.capture.open import camera_from
from edge_inspect.capture.protocol import Camera, Pixels
from edge_inspect.capture.ring import Slot
from edge_inspect.cli.annotate import AnnotatedVideo
from edge_inspect.cli.gallery import Gallery
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
from edge_inspect.cli.output import emit
from edge_inspect.cli.plural import counted
from edge_inspect.cli.replay_folder import WRITTEN, take_over
from edge_inspect.cli.run import stop_on_signals
from edge_inspect.cli.scoring import DeepLook, Scorer, check_same_recording, load_truth
from edge_inspect.cli.summary import summary, why_nothing
from edge_inspect.cli.targets import check_folder, check_target, is_missing, source_path
from edge_inspect.cli.video_meter import stream_bytes
from edge_inspect.config import config_from_options
from edge_inspect.config_evidence import EvidenceConfig
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.paho_client import packet_bytes
from edge_inspect.errors import StorageFailing
from edge_inspect.inference.decode import Detections
from edge_inspect.pipeline import Judged, Lane, Watcher
from edge_inspect.reporting import defect_report
from edge_inspect.verdict.parts import Look

EXAMPLES = """Examples:\n
  edge-inspect replay clip.mp4 --out out/ --annotate out/clip.mp4\n
  edge-inspect replay clip.mp4 --recipe my-line.toml --truth clip.gt.json --json\n
  edge-inspect replay sim:seed=3,parts=50 --out out/
"""
ASSUMED_FPS = 25.0


def add(app: typer.Typer) -> None:
    app.command("replay", epilog=EXAMPLES)(replay)


def replay(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A recording, a folder of pictures, or sim:parts=50; more for sim, joined by commas: seed=3, "
            "ng_share=0.5, kinds=scratch+dent, width, height, fps, px_per_frame, lamp=FILE.",
        ),
    ],
    recipe: RecipeFile = None,
    model: ModelDir = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="GT.json", help="Ground truth: gives escapes, overkill, mAP50.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write reports, parts, pictures and a page into DIR.")
    ] = None,
    annotate: Annotated[
        Path | None, typer.Option(metavar="OUT.mp4", help="Write an annotated copy of the recording.")
    ] = None,
    mqtt: MqttUrl = None,
    provider: ProviderName = None,
    threads: ThreadCount = None,
    state: StateDir = None,
    frames: FrameLimit = None,
    as_json: AsJson = False,
) -> None:
    """Inspect a recording, every frame of it, as fast as this machine can."""
    configure_log("warning", "text")
    _check_targets(source, {"truth": truth, "recipe": recipe}, out, annotate)
    config = config_from_options(
        None,
        camera=source,
        mqtt=mqtt,
        state=state,
        provider=check_provider(provider),
        threads=threads,
        recipe=recipe,
        model=str(model) if model else None,
    ).model_copy(update={"evidence": EvidenceConfig(enabled=False)})  # --out has all pictures
    camera = camera_from(source, paced=False) if source.startswith("sim") else camera_from(source)
    known = _truth(truth, camera) if truth else None
    scorer = Scorer(DeepLook()) if known or source.startswith("sim") else None
    if out:
        Appliance(config, cameras={"camera": camera}, deliver=False)  # what is refused leaves an earlier --out as it is
    with ExitStack() as stack:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        recorder = stack.enter_context(Recorder.into(out))
        gallery = Gallery(out, f"Replay of {source}", known) if out else None
        video = stack.enter_context(AnnotatedVideo(annotate, None)) if annotate else None
        progress = stack.enter_context(FrameProgress.on(console, frames))
        watchers: list[Watcher] = [w for w in (scorer, gallery, video, recorder, progress) if w is not None]
        appliance = Appliance(
            config,
            cameras={"camera": camera},
            watchers=watchers,
            deliver=mqtt is not None,
            frames=frames,
            first_open_s=0.0,
        )
        progress.appliance = recorder.appliance = appliance
        stop = stack.enter_context(stop_on_signals())
        appliance.run(stop)
    told = Console(stderr=as_json, highlight=False, soft_wrap=True)
    result = {"source": source, **summary(appliance), **_scores(appliance, scorer, known, camera)}
    result.update(
        _bandwidth(result["bytes_sent"] if mqtt else recorder.report_bytes, None if frames else stream_bytes(source))
    )
    if camera.ended_early:
        result["ended_early"] = camera.ended_early
    if gallery and out:
        page = gallery.close(result)
        (out / "summary.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        told.print(f"{'pictures of the parts that were not OK' if gallery.shown else 'page'}: {escape(str(page))}")
    _tell(told, result)
    _warn(console, result, mqtt, None if not video or video.written else annotate)
    if as_json:
        emit(result)


def _warn(console: Console, result: Mapping[str, Any], mqtt: str | None, no_copy: Path | None) -> None:
    if no_copy:
        console.print(f"[yellow]--annotate {escape(str(no_copy))}: not written, there was no frame")
    if "ended_early" in result:
        console.print(f"[yellow]{escape(result['ended_early'])}")
    if mqtt and result["reports_confirmed"] < result["reports"]:
        waiting = result["reports"] - result["reports_confirmed"]
        reports = counted(result["reports"], "report")
        console.print(f"[yellow]{waiting} of {reports} not taken by {escape(mqtt)}: kept in the outbox")


def _check_targets(source: str, files: Mapping[str, Path | None], out: Path | None, annotate: Path | None) -> None:
    """Raises Usage when the recording, or a file that is read with it, would be written over."""
    inputs = [("source", source_path(source)), *files.items()]
    if out:
        check_folder("--out", out, WRITTEN, inputs)
    if annotate:
        new = out is not None and annotate.parent.absolute() == out.absolute() and is_missing(out)  # --out makes it
        if not new:
            check_target("--annotate", annotate, inputs)


def _truth(path: Path, camera: Camera) -> dict[str, Any]:
    """Raises Refusal: none that we know, or of another recording."""
    known = load_truth(path)
    if not camera.live:
        try:
            check_same_recording(path, known, camera.open())
        finally:
            camera.close()
    return known


def _scores(
    appliance: Appliance, scorer: Scorer | None, known: dict[str, Any] | None, camera: Camera
) -> dict[str, Any]:
    if scorer is None:
        return {}
    classes = appliance.stations["camera"].package.manifest.classes
    if known is None:
        known = camera.truth()  # type: ignore[attr-defined]  # only the simulator comes here without a truth file
    return scorer.score(known, classes)._asdict()


def _bandwidth(sent_bytes: int, video_bytes: int | None) -> dict[str, Any]:
    """bytes_sent: what went out, or without --mqtt what would have. h264_bytes: the recording's own video stream."""
    saved = round(1 - sent_bytes / video_bytes, 5) if video_bytes else None
    return {"bytes_sent": sent_bytes, "h264_bytes": video_bytes, "bytes_saved": saved}


def _tell(console: Console, result: dict[str, Any]) -> None:
    console.print(
        f"{counted(result['frames'], 'frame')}, {result['fps'] or 0} a second; {counted(result['parts'], 'part')}: "
        f"[green]{result['ok']} OK[/], [red]{result['ng']} NG[/], [yellow]{result['unknown']} UNKNOWN[/]"
    )
    shown = {
        name: result.get(name)
        for name in ("escapes", "overkill", "map50", "parts_missed", "first_alarm_frame", "onset_frame")
    }
    if any(value is not None for value in shown.values()):
        console.print(", ".join(f"{name} {value}" for name, value in shown.items() if value is not None))
    nothing = why_nothing(result)
    if nothing:
        console.print(f"[yellow]{escape(nothing)}")
    if not result["inferences"]:
        return
    latency, own, inference = result["latency_ms"], result["own_ms"], result["inference_ms"]
    console.print(
        f"inference p50 {inference['p50']} ms, p99 {inference['p99']}; our own work p50 {own['p50']} ms, "
        f"p99 {own['p99']}; frame to verdict p50 {latency['p50']} ms; {result['model']} on {result['provider']}"
    )


class Recorder:
    """Writes each part and each report as it comes. Times are media time: frame number / fps, since 1970."""

    def __init__(self, parts: IO[bytes], reports: IO[bytes]) -> None:
        self.appliance: Appliance | None = None
        self.report_bytes = 0
        self._parts = parts
        self._reports = reports
        self._seq = 0

    @classmethod
    @contextmanager
    def into(cls, folder: Path | None) -> Iterator[Recorder]:
        """Write into `folder`; without one the reports are only measured."""
        if folder is None:
            with Path(os.devnull).open("wb") as nowhere:
                yield cls(nowhere, nowhere)
            return
        take_over(folder)
        try:
            with (folder / "parts.jsonl").open("wb") as parts, (folder / "report.jsonl").open("wb") as reports:
                yield cls(parts, reports)
        except OSError as err:
            raise StorageFailing(f"{folder}: cannot be written: {err.strerror or err}") from err

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        """Only parts are recorded."""

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        assert self.appliance is not None
        station = self.appliance.stations[lane.name]
        form = station.grabber.format
        assert form is not None and station.identity is not None
        media_ns = round(judged.frame_index * 1e9 / (form.fps or ASSUMED_FPS))
        timeless = dataclasses.replace(
            judged, captured_ns=media_ns, captured_utc_ns=media_ns, verdict_ns=media_ns, stages=None
        )
        self._parts.write(_line(_part(judged)))
        if judged.must_be_reported:
            self._seq += 1
            report = defect_report(lane, timeless, station.identity, pixels)
            payload = report.numbered(report.epoch, self._seq).to_bytes()
            self.report_bytes += packet_bytes(station.identity.topics.defect, payload, 1, protocol=5)
            self._reports.write(payload + b"\n")


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def _part(judged: Judged) -> dict[str, Any]:
    return {
        "part": judged.part,
        "verdict": judged.verdict.kind.value,
        "reason": judged.verdict.reason,
        "frame": judged.frame_index,
        "box_px": judged.box_px,
        "defects": [
            {
                "class": d.cls,
                "confidence": round(d.confidence, 4),
                "box_px": [round(side, 1) for side in d.box_px],
                "severity": d.severity,
                "looks": d.looks,
            }
            for d in judged.verdict.defects
        ],
    }


class FrameProgress:
    """A progress bar over the recording's frames, on stderr."""

    def __init__(self, progress: Progress, frames: int | None) -> None:
        self._progress = progress
        self._frames = frames
        self._task = progress.add_task("replay", total=frames)
        self._seen = 0
        self.appliance: Appliance | None = None

    @property
    def _total(self) -> int | None:
        """What the recording says of its length, if it does."""
        form = self.appliance.stations["camera"].grabber.format if self.appliance else None
        stated = form.settings.get("frames") if form else None
        return stated if isinstance(stated, int) and stated > 0 else None

    @classmethod
    @contextmanager
    def on(cls, console: Console, frames: int | None) -> Iterator[FrameProgress]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
            yield cls(progress, frames)

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        self._seen += 1
        self._progress.update(self._task, completed=self._seen, total=self._frames or self._total)

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        self._progress.update(self._task, description=f"part {judged.part} {judged.verdict.kind.value}")
