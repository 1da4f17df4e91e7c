"""Tells devices over MQTT that there is a rollout: a retained hint, so that they look sooner than their next poll.

A hint is no order: a device takes what the signed rollout says, and nothing from here. Only devices that the rollout is
for are told.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from cloud_inspect.errors import BadRelease, BrokerGone
from cloud_inspect.intake.session import Session
from cloud_inspect.settings import MqttSettings
from edge_wire.release import Rollout
from edge_wire.topics import Topics
from edge_wire.updates import Desired


def devices_of(names: Sequence[str]) -> list[Topics]:
    """SITE/LINE/DEVICE each. Raises BadRelease (`device-name`)."""
    found = []
    for name in names:
        levels = name.split("/")
        if len(levels) != 3:
            raise BadRelease("device-name", f"device {name}: must be SITE/LINE/DEVICE")
        try:
            found.append(Topics(*levels))
        except ValueError as err:
            raise BadRelease("device-name", str(err)) from err
    return found


async def announce(settings: MqttSettings, rollout: Rollout, devices: Sequence[Topics]) -> tuple[list[str], list[str]]:
    """The devices told, and those of them that the broker knows no listener of. Raises BrokerGone."""
    meant = [one for one in devices if rollout.concerns(one.site, one.line, one.device)]
    messages = [
        (
            one.desired,
            Desired(
                device=one.device,
                product=rollout.product,
                channel=rollout.channel,
                sequence=rollout.sequence,
                digest=rollout.model.digest,
            ).to_bytes(),
        )
        for one in meant
    ]
    async with Session(settings, f"announce-{os.getpid()}") as session:
        heard = await asyncio.gather(*(session.tell([one], retain=True) for one in messages))
        if session.refused:
            raise BrokerGone(f"{settings.host}: we may not publish on `desired` of {session.refused} of these devices")
    told = [f"{one.site}/{one.line}/{one.device}" for one in meant]
    return told, [name for name, listens in zip(told, heard, strict=True) if not listens]
