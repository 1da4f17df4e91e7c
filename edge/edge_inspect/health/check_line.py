"""Can the production line be reached from here, and is the metrics port free? Drives no output, sends no trigger."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from edge_inspect.config import Config, LineConfig
from edge_inspect.errors import BadConfig
from edge_inspect.health.doors import LOOPBACK
from edge_inspect.health.findings import Finding, fail, ok, warn
from edge_inspect.lane import part_times
from edge_inspect.line.open import check_adapters, check_fit
from edge_inspect.verdict.recipe import find_recipe, load_recipe

CONNECT_TIMEOUT_S = 5.0


def check_lines(config: Config) -> Iterator[Finding]:
    """For each line: what it is made of, then each of its adapters."""
    for line in config.line:
        name = f"line {line.name}"
        camera = next(camera for camera in config.camera if line.camera in (camera.name, None))
        try:
            check_adapters(line)
            check_fit(line, part_times(load_recipe(find_recipe(camera.recipe) if camera.recipe else find_recipe())))
        except BadConfig as err:
            yield fail(name, str(err), "`edge-inspect config check` until it says ok")
            continue
        adapters = ", ".join(key.replace("_", "-") for key in line.tables())
        yield ok(name, f"camera {camera.name}, adapters: {adapters}")
        yield from _check_adapters(name, line)


def _check_adapters(name: str, line: LineConfig) -> Iterator[Finding]:
    if (server := line.modbus_server) is not None:
        yield check_port(f"{name} modbus-server", server.host, server.port)
    if (client := line.modbus_client) is not None:
        yield _check_plc(f"{name} modbus-client", client.host, client.port)
    if line.gpio is not None:
        yield _check_chip(f"{name} gpio", str(line.gpio.chip))
    if line.socket is not None and line.socket.path is not None:
        yield _check_folder(f"{name} socket", str(line.socket.path.parent))


def check_port(name: str, host: str, port: int) -> Finding:
    """Whether a daemon could listen there now; taken may mean that it already does."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(found[0], found[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            mend = f"right if the daemon runs; else `ss -ltnp sport = :{port}` names the program"
            return warn(name, f"{host}:{port} is taken", mend)
        return fail(name, f"{host}:{port}: {err.strerror or err}", "an address of this box, and a port we may open")
    return ok(name, f"{host}:{port} is free")


def check_metrics(config: Config) -> Finding:
    if config.metrics is None:
        return ok("metrics", "not configured: no port is opened")
    return check_port("metrics", LOOPBACK, config.metrics.port)


def _check_plc(name: str, host: str, port: int) -> Finding:
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
    except OSError as err:
        return fail(name, f"{host}:{port}: {err.strerror or err}", "check cable, address and the PLC's Modbus server")
    return ok(name, f"{host}:{port} answers")


def _check_chip(name: str, chip: str) -> Finding:
    """Opened and let go: no wire is asked for, so none changes."""
    try:
        os.close(os.open(chip, os.O_RDWR | os.O_CLOEXEC))
    except OSError as err:
        mend = (
            "`ls -l /dev/gpiochip*`: is it there, and is its group ours? DeviceAllow= in the unit? (docs/line-gpio.md)"
        )
        return fail(name, f"{chip}: {err.strerror}", mend)
    return ok(name, f"{chip} can be opened")


def _check_folder(name: str, folder: str) -> Finding:
    if not os.access(folder, os.W_OK | os.X_OK):
        return fail(
            name, f"{folder}: may not be written to", f"make it writable for {os.geteuid()}, or set socket.path"
        )
    return ok(name, f"{folder} may be written to")
