"""Which register means what: one table for our server, our client, the PLC simulator and docs/line-modbus.md.

1. Two blocks and no more: the PLC writes the command block, we write the edge block. Nobody writes the other's.
2. A result stands whole or not at all: a result entry begins with its sequence number and ends with it again, and is
   valid only if both are the number that the PLC asked for and `ResultValid` is set.
3. Numbers never change their meaning; new reasons take new numbers. `MapVersion` says which table this is.

Offsets count from `base`, the address of the first register or bit as it travels in the request (0 is 40001 in the
notation of many PLCs). 32-bit values take two registers, the high word first unless `low_word_first`.
"""

from __future__ import annotations

from enum import IntFlag
from types import MappingProxyType
from typing import NamedTuple

MAP_VERSION = 1


class Command(IntFlag):
    """Bits of the command word; the same bits are coils, `base` + bit number."""

    TRIGGER = 1
    ACK = 2
    REJECT_CONFIRM = 4


class Status(IntFlag):
    """Bits of the edge's status word."""

    READY = 1
    BUSY = 2
    ALARM = 4


class Result(IntFlag):
    """Bits of a result entry's first word after the sequence number."""

    VALID = 1
    OK = 2
    NG = 4
    UNKNOWN = 8


ALL_COMMANDS = int(Command.TRIGGER | Command.ACK | Command.REJECT_CONFIRM)

# the command block: written by the PLC
COMMAND = 0
TRIGGER_SEQ = 1
ENCODER = 3
REJECT_COUNT = 5
COMMAND_HEAD_WORDS = 8
TRIGGER_RING = 8
TRIGGER_WORDS = 4

# the edge block: written by us
EDGE = 100
STATUS = 0
HEARTBEAT = 1
VERSION = 2
ENTRIES = 3
NEWEST = 4
RESULT_RING = 10
RESULT_WORDS = 6
EDGE_HEAD_WORDS = 4

MOST_ENTRIES = 16
COMMAND_WORDS = TRIGGER_RING + MOST_ENTRIES * TRIGGER_WORDS
EDGE_WORDS = RESULT_RING + MOST_ENTRIES * RESULT_WORDS
"""106: the whole block comes with one read (125 is the most that Modbus allows) and goes with one write (123)."""

COILS = ("Trigger", "Ack", "RejectConfirm")
DISCRETE_INPUTS = ("Ready", "Busy", "ResultValid", "ResultOK", "ResultNG", "ResultUnknown", "Alarm", "HeartbeatBit")


class Entry(NamedTuple):
    """One line of the table in the docs."""

    offset: int
    words: int
    name: str
    text: str


COMMAND_TABLE = (
    Entry(COMMAND, 1, "Command", "bit 0 Trigger, bit 1 Ack, bit 2 RejectConfirm; the coils are the same bits"),
    Entry(TRIGGER_SEQ, 2, "TriggerSeq", "number of the newest trigger, 0 to 4294967295; echoed in ResultSeq"),
    Entry(ENCODER, 2, "Encoder", "encoder counts now; 0 if there is none"),
    Entry(REJECT_COUNT, 1, "RejectCount", "rejects confirmed so far, wraps at 65536; instead of the RejectConfirm bit"),
    Entry(6, 2, "(reserved)", "write 0"),
    Entry(TRIGGER_RING, TRIGGER_WORDS * MOST_ENTRIES, "TriggerRing",
          "only where we poll the PLC: entry TriggerSeq mod `ring`: sequence (2 words), encoder (2 words)"),
)  # fmt: skip

EDGE_TABLE = (
    Entry(EDGE + STATUS, 1, "Status", "bit 0 Ready, bit 1 Busy, bit 2 Alarm"),
    Entry(EDGE + HEARTBEAT, 1, "Heartbeat", "counts up while we live, wraps at 65536; standing still means: reject"),
    Entry(EDGE + VERSION, 1, "MapVersion", f"{MAP_VERSION}: this table"),
    Entry(EDGE + ENTRIES, 1, "ResultEntries", "how many entries of ResultRing are used, 0 to 16"),
    Entry(EDGE + NEWEST, RESULT_WORDS, "Result", "the newest result, cleared by the next trigger and by Ack"),
    Entry(EDGE + RESULT_RING, RESULT_WORDS * MOST_ENTRIES, "ResultRing",
          "entry ResultSeq mod ResultEntries: the last results, for a PLC that fires before it has read"),
)  # fmt: skip

RESULT_TABLE = (
    Entry(0, 2, "ResultSeq", "sequence number of the trigger that this answers"),
    Entry(2, 1, "ResultBits", "bit 0 ResultValid, bit 1 ResultOK, bit 2 ResultNG, bit 3 ResultUnknown"),
    Entry(3, 1, "ReasonCode", "why, see the table of reasons"),
    Entry(4, 2, "ResultSeqEnd", "ResultSeq again; if the two differ, the entry is half written: read it again"),
)

NO_REASON = 0
OTHER_REASON = 99
REASONS = MappingProxyType({
    1: "no-defect", 2: "defect",
    10: "deadline", 11: "overrun", 12: "not-ready", 13: "camera-lost", 14: "not-seen", 15: "frozen", 16: "black",
    17: "white", 18: "garbage", 19: "corrupt", 20: "truncated", 21: "empty", 22: "other-size", 23: "wrong-size",
    24: "size-differs", 25: "non-finite", 26: "frames-lost", 27: "belt-not-seen", 28: "no-such-class",
    29: "driver-error", 30: "model-swap", 31: "stopped", 32: "no-frame", 33: "repeated",
    34: "known-answer",
})  # fmt: skip
_CODE_OF = {reason: code for code, reason in REASONS.items()}


def reason_code(reason: str) -> int:
    """The number of a reason; 99 for one that has none (yet)."""
    return _CODE_OF.get(reason, OTHER_REASON)


def reason_of(code: int) -> str:
    """The reason of a number; `other` for one this version does not know."""
    return REASONS.get(code, "other" if code else "")


def split(number: int, low_word_first: bool) -> tuple[int, int]:
    """A 32-bit number as two registers in the order they lie."""
    high, low = (number >> 16) & 0xFFFF, number & 0xFFFF
    return (low, high) if low_word_first else (high, low)


def join(first: int, second: int, low_word_first: bool) -> int:
    """Two registers in the order they lie as a 32-bit number."""
    return (second << 16) | first if low_word_first else (first << 16) | second


def tables() -> str:
    """The tables of docs/line-modbus.md; a test holds the page to them."""
    parts = ["### Coils and discrete inputs (where the PLC polls us)", "", "| address | coil | discrete input |",
             "|---|---|---|"]  # fmt: skip
    for bit, name in enumerate(DISCRETE_INPUTS):
        coil = COILS[bit] if bit < len(COILS) else ""
        parts.append(f"| base + {bit} | {coil} | {name} |")
    for title, table in (
        ("Command block: the PLC writes it (holding registers)", COMMAND_TABLE),
        ("Edge block: we write it (holding registers; where the PLC polls us, input registers too)", EDGE_TABLE),
    ):
        parts += ["", f"### {title}", "", "| address | registers | name | |", "|---|---|---|---|"]
        parts += [f"| base + {e.offset} | {e.words} | {e.name} | {e.text} |" for e in table]
    parts += ["", "### A result entry", "", "| register | registers | name | |", "|---|---|---|---|"]
    parts += [f"| {e.offset} | {e.words} | {e.name} | {e.text} |" for e in RESULT_TABLE]
    parts += ["", "### Reasons", "", "| ReasonCode | reason |", "|---|---|", f"| {NO_REASON} | no result |"]
    parts += [f"| {code} | `{reason}` |" for code, reason in REASONS.items()]
    parts += [f"| {OTHER_REASON} | any other: read it in the report |"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
