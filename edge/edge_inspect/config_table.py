"""What every table of the configuration is made of, and the kinds of value that several tables share."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict

from edge_wire.topics import checked_name

MQTT_ALLOWED = "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"


class Table(BaseModel):
    """Closed, unchangeable, and values are taken as written."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _name(text: str) -> str:
    try:
        return checked_name("it", text)
    except ValueError as err:
        raise ValueError("allowed: 1-40 of A-Z a-z 0-9 . _ - beginning with a letter or digit") from err


def _broker_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise ValueError(f"allowed: {MQTT_ALLOWED} with a port of 1-65535") from err
    known = parts.scheme in ("mqtt", "mqtts") and parts.hostname and port != 0
    if not known or parts.path not in ("", "/") or parts.query or parts.fragment or re.search(r"\s", url):
        raise ValueError(f"allowed: {MQTT_ALLOWED}")
    return url


Name = Annotated[str, AfterValidator(_name)]
BrokerUrl = Annotated[str, AfterValidator(_broker_url)]
