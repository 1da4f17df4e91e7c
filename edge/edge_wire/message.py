"""What every message has in common: a `type`, bounded bytes, and one way to and from them. See `messages`."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, ValidationError
from typing_extensions import Self

from edge_wire.fields import Block
from edge_wire.mistake import first_mistake

MAX_PAYLOAD_BYTES = 256 * 1024
"""No message of ours is larger; a reader may refuse a larger one unread."""


class BadMessage(ValueError):
    """Bytes that are not the message they should be; one line: where, what was found, what is allowed."""


def _type_is_required(schema: dict[str, Any]) -> None:
    schema["required"] = ["type", *schema.get("required", [])]


class Message(Block):
    """A block that travels on its own; its `type` has a default for us, but may not be missing on the wire."""

    model_config = ConfigDict(json_schema_extra=_type_is_required)
    kind: ClassVar[str]

    def to_bytes(self) -> bytes:
        """Compact UTF-8 JSON; equal messages give equal bytes. Raises ValueError above MAX_PAYLOAD_BYTES."""
        payload = self.model_dump_json().encode()
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a {self.kind} of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} may leave")
        return payload

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Read a payload from the wire. Raises BadMessage, one line."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise BadMessage(f"{cls.kind}: {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")
        try:
            message = cls.model_validate_json(payload)
        except ValidationError as err:
            more = f" (and {err.error_count() - 1} more)" if err.error_count() > 1 else ""
            raise BadMessage(f"{cls.kind}: {first_mistake(err, 'payload')}{more}") from err
        if "type" not in message.model_fields_set:
            raise BadMessage(f"{cls.kind}: type: Field required")
        return message
