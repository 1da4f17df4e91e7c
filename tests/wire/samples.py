"""One message of each kind with every field filled, and the lean ones that real devices send too."""

from __future__ import annotations

import base64

from edge_wire.fields import utc_from_ns
from edge_wire.messages import (
    Ack,
    CameraState,
    CameraStatus,
    CameraVitals,
    Defect,
    DefectReport,
    Degraded,
    Desired,
    DeviceState,
    EvidenceVitals,
    FrameRef,
    Gone,
    Latency,
    LineVitals,
    LinkVitals,
    Message,
    ModelRef,
    Outage,
    OutboxVitals,
    Part,
    PartMode,
    RecipeRef,
    Resync,
    StageTimes,
    Thumbnail,
    VerdictKind,
    Vitals,
)
from edge_wire.release import ReleasedModel
from edge_wire.updates import ModelUpdate, RefusedModel

EPOCH = "019a2f3b4c5d-0123456789abcdef"
UTC = utc_from_ns(1_795_338_098_123_456_789)
DIGESTS = ["sha256:" + f"{n:02x}" * 32 for n in range(4)]
MODEL = ModelRef(name="metal-plate", version="1.0.0", digest=DIGESTS[1], variant_digest=DIGESTS[2])
RECIPE = RecipeRef(name="metal-plate", version="3", digest=DIGESTS[3])
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")


def defect_full() -> DefectReport:
    return DefectReport(
        device="edge-0017",
        epoch=EPOCH,
        seq=42,
        site="plant-1",
        line="press-4",
        camera="left",
        camera_digest=DIGESTS[0],
        part=Part(number=5120, mode=PartMode.BARRIER),
        verdict=VerdictKind.NG,
        reason="defect",
        defects=(
            Defect(
                class_name="scratch",
                confidence=0.87314,
                box_px=(412.25, 101.0, 468.5, 122.75),
                part_box_px=(-1.5, 41.0, 54.75, 62.75),
                width_mm=4.4999,
                height_mm=1.7,
                severity="major",
                looks=3,
            ),
            Defect(
                class_name="Kratzer (groß)",
                confidence=0.5,
                box_px=(1.0, 2.0, 3.0, 4.0),
                part_box_px=(0.0, 0.0, 2.0, 2.0),
                severity="info",
                looks=1,
            ),
        ),
        model=MODEL,
        recipe=RECIPE,
        verdict_ns=81_234_567_890,
        verdict_utc=UTC,
        frame=FrameRef(index=20_481, captured_ns=81_220_000_000, captured_utc=UTC, age_ms=14.56789),
        stages_ms=StageTimes(capture=1.1, letterbox=0.4, inference=9.3, decode=0.12345, judge=0.03),
        thumbnail=Thumbnail(
            width_px=160,
            height_px=120,
            crop_px=(400.0, 90.0, 480.0, 150.0),
            jpeg_base64=base64.b64encode(JPEG).decode(),
        ),
    )


def defect_unseen() -> DefectReport:
    return DefectReport(
        device="edge-0017",
        epoch=EPOCH,
        seq=43,
        site="plant-1",
        line="press-4",
        camera="left",
        camera_digest=DIGESTS[0],
        part=Part(number=5121, mode=PartMode.TRIGGER),
        verdict=VerdictKind.UNKNOWN,
        reason="camera-lost",
        model=MODEL,
        recipe=RECIPE,
        verdict_ns=81_334_567_890,
        verdict_utc=UTC,
    )


def defect_triggered() -> DefectReport:
    part = Part(number=5122, mode=PartMode.TRIGGER, sequence=2**32 - 1)
    return defect_unseen().model_copy(update={"seq": 45, "part": part, "reason": "deadline"})


def defect_recovered() -> DefectReport:
    part = Part(number=5123, mode=PartMode.TRIGGER, sequence=7)
    changed = {"seq": 46, "part": part, "verdict": VerdictKind.NG, "reason": "defect", "recovered": True}
    return defect_unseen().model_copy(update=changed)


def defect_shed() -> DefectReport:
    return defect_full().without_picture().numbered(EPOCH, 44)


def state_online() -> DeviceState:
    return DeviceState(
        site="plant-1",
        line="press-4",
        device="edge-0017",
        status="online",
        since=UTC,
        epoch=EPOCH,
        versions={"edge-inspect": "0.1.0", "onnxruntime": "1.31.1", "python": "3.11.7"},
        cameras=(
            CameraState(name="left", status=CameraStatus.UP),
            CameraState(name="right", status=CameraStatus.LOST, reason="unplugged"),
        ),
        degraded=(Degraded(code="provider-fallback", detail="asked for cuda, runs on cpu"),),
    )


def state_update() -> DeviceState:
    candidate = ReleasedModel(name="metal-plate", version="1.2.0", digest=DIGESTS[2])
    update = ModelUpdate(
        stage="shadow", since=UTC, active=DIGESTS[1], previous=DIGESTS[0], candidate=candidate, progress=0.42,
        refused=RefusedModel(digest=DIGESTS[3], code="trial-rate", at=UTC), sequence=7,
    )  # fmt: skip
    return state_online().model_copy(update={"update": update})


def state_update_idle() -> DeviceState:
    return state_online().model_copy(update={"update": ModelUpdate(stage="idle", since=UTC, active=DIGESTS[1])})


def desired() -> Desired:
    return Desired(device="edge-0017", product="metal-plate", channel="stable", sequence=7, digest=DIGESTS[2])


def desired_all() -> Desired:
    return desired().model_copy(update={"device": None})


def state_will() -> DeviceState:
    return state_online().gone("connection-lost", None)


def vitals_full() -> Vitals:
    return Vitals(
        site="plant-1",
        line="press-4",
        device="edge-0017",
        utc=UTC,
        uptime_s=86_400.04,
        cameras=(
            CameraVitals(
                name="left",
                frames=2_160_000,
                parts=86_400,
                ok=86_000,
                ng=390,
                unknown=10,
                unknown_by_reason={"camera-lost": 8, "frozen": 2},
                missed=12,
                overruns=0,
                reconnects=1,
                fps=24.996,
                latency_ms=Latency(p50=13.2, p99=19.8, max=44.0),
                model=MODEL,
                provider="CPUExecutionProvider",
            ),
        ),
        outbox=OutboxVitals(
            epoch=EPOCH,
            last_seq=400,
            depth=2,
            oldest_age_s=0.4,
            size_bytes=9_437_184,
            pictures_shed=0,
            dropped=0,
            recovered=1,
        ),
        link=LinkVitals(
            connects=2,
            failures={"refused": 3, "closed": 1},
            bytes_sent=4_194_304,
            reports_sent=398,
            unheard=1,
            resent=3,
            resynced=40,
            gone=2,
            pictures_left=1,
            outage_s=61.25,
            last_outage=Outage(since=UTC, seconds=60.0, code="refused"),
        ),
        rss_bytes=310_000_000,
        temperature_c=61.5,
        evidence=EvidenceVitals(
            stored=780, skipped=3, failed=0, pruned=12, pictures=5_210, size_bytes=734_003_200, failing=False
        ),
        lines=(
            LineVitals(
                name="gate",
                camera="left",
                ready=True,
                triggers=86_402,
                ok=86_000,
                ng=390,
                unknown=10,
                unknown_by_reason={"camera-lost": 4, "deadline": 3, "overrun": 3},
                missed_deadlines=3,
                late_verdicts=2,
                overruns=3,
                repeated=2,
                skipped=1,
                answer_ms=Latency(p50=21.4, p99=29.8, max=50.0),
                rejected=400,
                rejects_missed=1,
                adapters={"modbus-client": {"late": 3, "untold": 1, "missed-triggers": 0, "lost": 2}, "gpio": {}},
            ),
        ),
    )


def vitals_lean() -> Vitals:
    return Vitals(
        site="plant-1",
        line="press-4",
        device="edge-0017",
        utc=UTC,
        uptime_s=0.0,
        cameras=(),
        outbox=None,
        link=None,
        rss_bytes=0,
        temperature_c=None,
    )


def ack() -> Ack:
    return Ack(device="edge-0017", epoch=EPOCH, ranges=((1, 40), (42, 42)))


def resync() -> Resync:
    return Resync(device="edge-0017", epoch=EPOCH, ranges=((41, 41), (300, 399)))


def gone() -> Gone:
    return Gone(device="edge-0017", epoch=EPOCH, last_seq=398, ranges=((41, 41), (399, 399)))


SAMPLES: dict[str, Message] = {
    "defect-full": defect_full(),
    "defect-unseen": defect_unseen(),
    "defect-triggered": defect_triggered(),
    "defect-shed": defect_shed(),
    "defect-recovered": defect_recovered(),
    "state-online": state_online(),
    "state-will": state_will(),
    "state-update": state_update(),
    "state-update-idle": state_update_idle(),
    "vitals-full": vitals_full(),
    "vitals-lean": vitals_lean(),
    "ack": ack(),
    "resync": resync(),
    "gone": gone(),
    "desired": desired(),
    "desired-all": desired_all(),
}
