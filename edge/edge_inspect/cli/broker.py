"""A broker for the demo when none is given: Debian's mosquitto if it is installed, else amqtt from the extra `demo`.

It listens on a free port of 127.0.0.1, keeps nothing, and ends with the `with` block. For a line use a real broker.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_inspect.errors import Refusal

START_S = 15.0

_AMQTT = """
import asyncio, logging, sys
from amqtt.broker import Broker
logging.disable(logging.CRITICAL)
async def serve(port):
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
                     "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}})
    await broker.start()
    await asyncio.Event().wait()
asyncio.run(serve(int(sys.argv[1])))
"""


@dataclass(frozen=True, slots=True)
class RunningBroker:
    url: str
    name: str
    protocol: str
    """What it speaks: "5" or "3.1.1"."""


@contextmanager
def demo_broker() -> Iterator[RunningBroker]:
    """Start a broker and stop it at the end. Raises Refusal when there is neither mosquitto nor amqtt."""
    port = _free_port()
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    with tempfile.TemporaryDirectory(prefix="edge-inspect-broker-") as folder:
        if mosquitto:
            settings = Path(folder) / "mosquitto.conf"
            settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
            command, name, protocol = [mosquitto, "-c", str(settings)], "mosquitto", "5"
        elif importlib.util.find_spec("amqtt"):
            command, name, protocol = [sys.executable, "-c", _AMQTT, str(port)], "amqtt", "3.1.1"
        else:
            raise Refusal(
                "no MQTT broker: give one with --mqtt mqtt://HOST, or `apt install mosquitto`, "
                "or `pip install 'edge-inspect[demo]'`"
            )
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_until_it_listens(port, process, name)
            yield RunningBroker(f"mqtt://127.0.0.1:{port}", name, protocol)
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise Refusal(
                f"{name} ended at once with exit code {process.returncode}; give a broker with --mqtt mqtt://HOST"
            )
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Refusal(f"{name} did not listen on port {port} within {START_S:.0f} s; give a broker with --mqtt mqtt://HOST")
