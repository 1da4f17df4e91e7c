"""Each key of `[update]` reaches the place where it acts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from edge_inspect import updates as updates_module
from edge_inspect.config import Config, load_config
from edge_inspect.config_update import UpdateConfig
from edge_inspect.daemon import Appliance
from edge_inspect.inference import providers
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.examine import Probed
from edge_inspect.update.fetch import FetchSettings
from edge_inspect.update.pace import Looks
from edge_inspect.update.probe import service_of
from edge_inspect.updates import Updates
from tests.sim.tiny_model import write_tiny_package
from tests.sim.tuf_repository import TufRepository

TABLE = {
    "product": '"bottles"',
    "root": '"root.json"',
    "url": '"https://models.plant/bottles/"',
    "channel": '"early"',
    "models_dir": '"elsewhere"',
    "fetch": '"daemon"',
    "ca": '"plant-ca.pem"',
    "poll_s": "77",
    "rate_bytes_per_s": "54321",
    "deadline_s": "4321",
    "cap_bytes": "7654321",
    "keep_free_bytes": "1234567",
    "shadow_share": "0.17",
    "probe_s": "43",
    "probe_memory_bytes": "123456789",
    "probe_latency_factor": "3.5",
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "root.json").write_bytes(TufRepository().first_root)
    (tmp_path / "plant-ca.pem").write_text("")
    model = write_tiny_package(tmp_path / "factory")
    recipe = tmp_path / "spots.toml"
    recipe.write_text('name = "spots"\nversion = "1"\n[classes.scratch]\nthreshold = 0.5\n[part]\nmode = "frame"\n')
    table = "\n".join(f"{key} = {value}" for key, value in TABLE.items())
    path = tmp_path / "edge-inspect.toml"
    path.write_text(f"""
state_dir = "state"
[device]
site = "plant-1"
line = "press-4"
device = "edge-0017"
[model]
dir = "{model}"
provider = "cpu"
threads = 3
precision = "fp32"
[[camera]]
name = "left"
source = "sim"
recipe = "{recipe}"
[update]
{table}
""")
    return load_config(path)


def test_every_key_has_its_line_here() -> None:
    assert set(TABLE) == set(UpdateConfig.model_fields)


def test_keys_of_the_fetch(config: Config, tmp_path: Path) -> None:
    assert config.update is not None
    got = FetchSettings.of(config.update, site="plant-1", line="press-4", device="edge-0017", state_dir=tmp_path)
    limits = got.limits
    assert (limits.rate_bytes_per_s, limits.deadline_s, limits.cap_bytes) == (54321, 4321, 7654321)
    assert limits.min_free_bytes == 1234567
    assert (got.product, got.channel, got.url) == ("bottles", "early", "https://models.plant/bottles")
    assert (got.models_dir, got.ca) == (tmp_path / "elsewhere", tmp_path / "plant-ca.pem")
    assert got.root == (tmp_path / "root.json").read_bytes()
    assert got.built is not None, "a clock that says less than when the shipped model was made is wrong"


def test_keys_of_the_probe_and_of_the_looks(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = asked_of_the_probe(config, monkeypatch)
    model, limits = asked["model"], asked["limits"]
    assert (limits.seconds, limits.memory_bytes, model.latency_factor) == (43.0, 123456789, 3.5)
    assert (model.provider, model.threads, model.precision) == ("cpu", 3, "fp32")
    assert model.sources == ((192, 320),)
    assert asked["service"] == service_of(config.state_dir)
    assert made["channel"] == "bottles/early"
    assert made["looks"]._poll_s == 77.0


@pytest.mark.parametrize("there", ["cuda", "openvino"])
def test_auto_is_probed_on_what_the_box_runs(there: str, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the service lives `auto` would be the CPU: on a box with a GPU nothing of it would be tried."""
    monkeypatch.setattr(providers, "_offer", lambda name: providers.Offer(name, name in (there, "cpu"), ""))
    auto = config.model_copy(update={"model": config.model.model_copy(update={"provider": "auto"})})
    _, asked = asked_of_the_probe(auto, monkeypatch)
    assert asked["model"].provider == there


def asked_of_the_probe(config: Config, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the updater is made of, and what the probe is asked."""
    made: dict[str, Any] = {}
    asked: dict[str, Any] = {}

    class Updater:
        pulse = type("Pulse", (), {"stop": threading.Event()})()

        def __init__(self, store: object, source: Any, probe: Any, live: object, **more: Any) -> None:
            made.update(more, source=source, probe=probe)

    def probe(package_dir: Path, **more: Any) -> Probed:
        asked.update(more)
        raise InterruptedError

    monkeypatch.setattr(updates_module, "Updater", Updater)
    monkeypatch.setattr(updates_module, "probe", probe)
    assert config.update is not None
    updates = Updates(config, config.update)
    try:
        updates.attach(object(), lambda: [(192, 320)])  # type: ignore[arg-type]
        package = ModelPackage.load(Path(updates.model_dir))
        with pytest.raises(InterruptedError):
            made["probe"](package, package)
    finally:
        updates.close()
    return made, asked


def test_pause_between_looks_is_up_to_a_tenth_shorter_or_longer() -> None:
    now_s = 0.0
    looks = Looks(77.0, clock_s=lambda: now_s)
    pauses = []
    for _ in range(200):
        looks.looked()
        began_s = now_s
        while not looks.due():
            now_s += 0.1
        pauses.append(now_s - began_s)
    assert 69.2 <= min(pauses) < 72 and 82 < max(pauses) <= 84.9


def test_share_of_the_shadow(config: Config) -> None:
    line = Appliance(config, deliver=False)
    assert line.shadow._share == 0.17
