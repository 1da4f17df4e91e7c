"""The doctor looks at the line of a configuration: libraries, recipe, ports, devices, folders."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from edge_inspect.config import Config, load_config
from edge_inspect.health.check_line import check_lines, check_metrics
from edge_inspect.health.findings import Finding, State

CAMERA = '[[camera]]\nname = "a"\nsource = "sim"\n'


def configured(folder: Path, text: str) -> Config:
    file = folder / "edge.toml"
    file.write_text(CAMERA + text)
    return load_config(file, {})


def states(findings: list[Finding]) -> dict[str, State]:
    return {finding.check: finding.state for finding in findings}


def test_line_that_could_run_names_its_adapters(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = configured(
            tmp_path,
            f'[[line]]\n[line.modbus_server]\nport = {port}\n[line.modbus_client]\nhost = "127.0.0.1"\nport = {port}\n'
            '[line.socket]\npath = "a.sock"\n',
        )
        findings = list(check_lines(config))
    assert findings[0].what == "camera a, adapters: modbus-server, modbus-client, socket"
    assert states(findings) == {
        "line line": State.OK,
        "line line modbus-server": State.WARN,
        "line line modbus-client": State.OK,
        "line line socket": State.OK,
    }
    assert findings[1].what == f"127.0.0.1:{port} is taken"


def test_gpio_chip_that_is_not_there_fails(tmp_path: Path) -> None:
    chip = tmp_path / "gpiochip9"
    findings = list(check_lines(configured(tmp_path, f'[[line]]\n[line.gpio]\nchip = "{chip}"\nok_line = 3\n')))
    assert states(findings)["line line gpio"] is State.FAIL


def test_missing_library_fails_and_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path, "[[line]]\n[line.modbus_server]\n")
    monkeypatch.setitem(sys.modules, "pymodbus", None)
    (finding,) = check_lines(config)
    assert finding.state is State.FAIL
    assert "edge-inspect[line]" in finding.what


def test_metrics_port_is_told_as_taken_or_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = configured(tmp_path, f"[metrics]\nport = {taken.getsockname()[1]}\n")
        assert (check_metrics(config).state, check_metrics(config).what[-8:]) == (State.WARN, "is taken")
    assert (check_metrics(config).state, check_metrics(config).what[-7:]) == (State.OK, "is free")
    assert check_metrics(configured(tmp_path, "")).state is State.OK
