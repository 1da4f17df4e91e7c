"""Would the broker take our reports, and are our secrets ours alone?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_inspect.config import MqttConfig, broker_of
from edge_inspect.delivery.link import Link
from edge_inspect.delivery.link_errors import LinkLost
from edge_inspect.errors import BadConfig
from edge_inspect.health.findings import Finding, fail, ok, warn


def check_broker(mqtt: MqttConfig | None, device: str) -> Finding:
    """Connect as another client than the daemon, which would be thrown out otherwise, and leave again."""
    if mqtt is None:
        return warn("broker", "none configured: nothing leaves this box", "give [mqtt] url, or --mqtt")
    try:
        link = Link(broker_of(mqtt), f"{device}-doctor")
        try:
            link.connect()
            link.say_goodbye()
        finally:
            link.close()
    except LinkLost as err:
        return fail("broker", str(err), "broker running? firewall? mqtt.ca, cert and key, user name and password?")
    except BadConfig as err:
        return fail("broker", str(err), "mend [mqtt] in the configuration")
    return ok("broker", f"{mqtt.url} takes us (MQTT {'5' if mqtt.protocol == 5 else '3.1.1'})")


def check_secrets(files: Iterable[Path]) -> Finding:
    """Keys and passwords that other users of this box can read are no secrets."""
    shown = [str(path) for path in files if path.exists() and path.stat().st_mode & 0o077]
    if shown:
        return warn("secrets", f"other users may read {', '.join(shown)}", f"chmod 600 {' '.join(shown)}")
    return ok("secrets", "no key or password file is open to others")
