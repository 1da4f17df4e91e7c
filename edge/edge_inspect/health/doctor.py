"""Is this box fit to inspect? Every check is one finding: ok, warn or fail, what was seen, how to mend it.

1. Nothing is changed, but that a missing state directory is made: the probe file in it is removed again, a camera is
   opened and let go.
2. A check never hides another: each runs, whatever the others found.
3. What a check judges (texts of /proc, limits, offers of the runtimes) is an argument of it, so that any box can be
   played to it.

    for finding in examine(config): print(finding.state.value, finding.what, finding.mend)
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from edge_inspect.config import CameraConfig, Config
from edge_inspect.health.check_box import check_camera, check_cameras_there, check_clock, check_mlock, check_state_dir
from edge_inspect.health.check_broker import check_broker, check_secrets
from edge_inspect.health.check_line import check_lines, check_metrics
from edge_inspect.health.check_runtime import (
    check_cpu,
    check_faster,
    check_model,
    check_providers,
    check_python,
    check_runtime_installed_once,
    cpu_of,
    installed_distributions,
    is_jetson,
    nvidia_driver_there,
    python_version,
)
from edge_inspect.health.findings import Finding
from edge_inspect.inference.providers import survey


def examine(config: Config, *, any_camera: bool = False) -> Iterator[Finding]:
    """Every finding, in the order in which one would mend them; takes a few seconds.

    any_camera: no camera was chosen yet; tell which are there instead of checking those of `config`.
    """
    yield check_python(python_version())
    yield from _examine_runtime(config)
    for name, source in sorted({_model_and_size(config, camera) for camera in config.camera}):
        yield from check_model(name or None, config.model.provider, config.model.threads, source)
    if any_camera:
        yield check_cameras_there()
    else:
        yield from map(check_camera, config.camera)
    yield from check_state_dir(config.state_dir, config.outbox.cap_bytes, _text("/proc/self/mountinfo"))
    yield check_mlock(config.camera, resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], _text("/proc/self/status"))
    yield check_clock()
    yield check_broker(config.mqtt, config.device.device)
    yield from check_lines(config)
    yield check_metrics(config)
    yield check_secrets(_secret_files(config))


def _model_and_size(config: Config, camera: CameraConfig) -> tuple[str, tuple[int, int]]:
    return camera.model or config.model.dir or "", (camera.height or 1080, camera.width or 1920)


def _examine_runtime(config: Config) -> Iterator[Finding]:
    offers, wanted = survey(), config.model.provider
    cpuinfo = _text("/proc/cpuinfo")
    yield check_runtime_installed_once(installed_distributions(), offers)
    yield check_providers(offers, wanted)
    yield check_cpu(cpuinfo, len(os.sched_getaffinity(0)))
    _, flags = cpu_of(cpuinfo)
    yield from check_faster(offers, wanted, flags, nvidia_driver=nvidia_driver_there(), jetson=is_jetson())


def _secret_files(config: Config) -> Iterator[Path]:
    named = [camera.password_file for camera in config.camera]
    if config.mqtt:
        named += [config.mqtt.key, config.mqtt.password_file]
    return (path for path in named if path is not None)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
