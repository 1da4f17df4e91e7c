"""The whole appliance as a plant sees it: from a frame's capture to an MQTT subscriber, and from start to verdict.

Both run `edge-inspect run` as a user would, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from edge_inspect.cli.bench_side import percentiles
from edge_inspect.cli.broker import RunningBroker, demo_broker
from edge_inspect.errors import BadModel, Refusal
from edge_inspect.inference.package import ModelPackage

LATENCY_FRAMES = 750
LATENCY_CAMERA = "sim:seed=5,ng_share=1.0,fps=25"
START_S = 60.0
RECIPE = """name = "bench"
version = "1"
[classes."*"]
threshold = {threshold}
[part]
mode = "frame"
"""


def bench_latency(package: ModelPackage, provider: str, threads: int, console: Console) -> dict[str, Any]:
    """Milliseconds from a frame's capture until a subscriber on loopback has its report; every frame is a part."""
    with demo_broker() as broker, tempfile.TemporaryDirectory(prefix="edge-inspect-bench-") as folder:
        subscriber = _Subscriber(broker)
        recipe = Path(folder) / "every-frame.toml"
        recipe.write_text(RECIPE.format(threshold=0.25))
        options = ["--camera", LATENCY_CAMERA, "--mqtt", broker.url, "--frames", str(LATENCY_FRAMES)]
        options += ["--recipe", str(recipe), "--state", f"{folder}/state", "--threads", str(threads), "--json"]
        try:
            told = _run(package, provider, options, timeout_s=LATENCY_FRAMES / 25 + START_S)
        finally:
            arrivals = subscriber.close()
    total, without_inference, to_verdict, delivery = [], [], [], []
    for arrived_ns, report in arrivals:
        if report.get("frame") and report.get("stages_ms"):
            captured_ns, inference_ms = report["frame"]["captured_ns"], report["stages_ms"]["inference"]
            total.append((arrived_ns - captured_ns) / 1e6)
            without_inference.append(total[-1] - inference_ms)
            to_verdict.append((report["verdict_ns"] - captured_ns) / 1e6 - inference_ms)
            delivery.append((arrived_ns - report["verdict_ns"]) / 1e6)
    if not total:
        raise Refusal(f"no report arrived: {told}")
    result = {
        "broker": broker.name, "provider": told["provider"], "reports": len(total), "camera": LATENCY_CAMERA,
        "capture_to_subscriber_ms": percentiles(total), "minus_inference_ms": percentiles(without_inference),
        "to_verdict_minus_inference_ms": percentiles(to_verdict), "verdict_to_subscriber_ms": percentiles(delivery),
    }  # fmt: skip
    spread = result["minus_inference_ms"]
    delivered = result["verdict_to_subscriber_ms"]
    console.print(f"capture -> subscriber minus inference: p50 {spread['p50']} ms, p99 {spread['p99']} ms "
                  f"(verdict -> subscriber: {delivered['p50']} and {delivered['p99']} ms), "
                  f"{len(total)} reports on {told['provider']}")  # fmt: skip
    return result


def bench_start(package: ModelPackage, provider: str, rounds: int, console: Console) -> dict[str, Any]:
    """Seconds from starting the process until it prints its first verdict, on a golden picture with a defect."""
    golden = next((g for g in package.manifest.golden if g.expect), None)
    if golden is None:
        raise BadModel("no-golden", f"{package.dir}: no golden picture with a defect to start on")
    times = []
    with tempfile.TemporaryDirectory(prefix="edge-inspect-bench-") as folder:
        recipe = Path(folder) / "every-frame.toml"
        recipe.write_text(RECIPE.format(threshold=max(0.05, min(e.confidence for e in golden.expect) / 2)))
        for number in range(rounds):
            options = ["--camera", str(package.dir / golden.file), "--recipe", str(recipe)]
            options += ["--state", f"{folder}/state-{number}"]
            times.append(_seconds_to_first_line(_command(package, provider, options)))
    times.sort()
    result = {
        "provider": provider,
        "runs": rounds,
        "median_s": round(times[len(times) // 2], 3),
        "max_s": round(times[-1], 3),
    }
    console.print(f"process start -> first verdict: median {result['median_s']} s, worst {result['max_s']} s")
    return result


def _command(package: ModelPackage, provider: str, options: list[str]) -> list[str]:
    return [sys.executable, "-m", "edge_inspect", "run", "--model", str(package.dir), "--provider", provider, *options]


def _run(package: ModelPackage, provider: str, options: list[str], timeout_s: float) -> dict[str, Any]:
    done = subprocess.run(_command(package, provider, options), capture_output=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise Refusal(f"edge-inspect run ended with {done.returncode}: {_last_line(done.stderr)}")
    told: dict[str, Any] = json.loads(_last_line(done.stdout))
    return told


def _seconds_to_first_line(command: list[str]) -> float:
    start = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        timer = threading.Timer(START_S, process.kill)
        timer.start()
        try:
            line = process.stdout.readline()
            seconds = time.monotonic() - start
        finally:
            timer.cancel()
            timer.join()
            process.terminate()
            rest = process.stderr.read()
    if b"NG" not in line:
        raise Refusal(f"no verdict came: {line.decode(errors='replace').strip() or _last_line(rest)}")
    return seconds


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


class _Subscriber:
    """Notes when each defect report arrives; CLOCK_MONOTONIC is one clock for all processes of a machine."""

    def __init__(self, broker: RunningBroker) -> None:
        host, _, port = broker.url.removeprefix("mqtt://").partition(":")
        version = mqtt.MQTTv5 if broker.protocol == "5" else mqtt.MQTTv311
        self._arrived: list[tuple[int, bytes]] = []
        self._listening = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=version)
        self._client.on_message = lambda client, data, message: self._arrived.append(
            (time.monotonic_ns(), bytes(message.payload))
        )
        self._client.on_subscribe = lambda *_: self._listening.set()
        self._client.connect(host, int(port))
        self._client.subscribe("inspect/v1/+/+/+/defect", qos=1)
        self._client.loop_start()
        if not self._listening.wait(10):
            raise Refusal(f"{broker.name} did not confirm our subscription within 10 s")

    def close(self) -> list[tuple[int, dict[str, Any]]]:
        time.sleep(0.5)  # the last reports are on their way
        self._client.disconnect()
        self._client.loop_stop()
        return [(arrived_ns, json.loads(payload)) for arrived_ns, payload in self._arrived]
