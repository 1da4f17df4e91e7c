"""A rollout's limits and audience under the names of their options, and what is refused of them in words.

One table, so that who signs reads `most_new_ng 0.7`, types `--most-new-ng 0.7` and is told `--most-new-ng: found 7`.

    differences(last, rollout)          # ["most_new_ng 0.7 -> 0.05"]
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from edge_wire.release import Audience, Rollout, ShadowLimits, TrialLimits

SHADOW = {
    "parts": "shadow_parts", "least_rejected": "shadow_rejected", "most_s": "shadow_most_s",
    "most_new_ng": "most_new_ng", "most_new_ok": "most_new_ok",
}  # fmt: skip
TRIAL = {
    "parts": "trial_parts", "least_s": "trial_least_s", "most_rate_shift": "most_rate_shift",
    "most_unknown": "most_unknown",
}  # fmt: skip
AUDIENCE = ("sites", "lines", "devices")
_NAMES = {
    ShadowLimits.__name__: SHADOW,
    TrialLimits.__name__: TRIAL,
    Audience.__name__: {name: name for name in AUDIENCE},
}
_NAME = "allowed: letters, digits and . _ - * ?, up to 40, beginning with a letter, a digit, * or ?, e.g. press-*"
_WORDS = {
    "channel": "allowed: a-z 0-9 -, up to 31, not beginning with -, e.g. stable",
    "sites": _NAME, "lines": _NAME, "devices": _NAME,
    "reason": "allowed: one line, up to 200 characters", "released_by": "allowed: one line, up to 200 characters",
    "by": "allowed: one line, up to 200 characters",
    "name": "allowed: a-z 0-9 -, up to 63, not beginning with -, e.g. metal-plate",
    "version": "allowed: three numbers without leading zeros, e.g. 1.1.0, or 1.1.0-rc.1; up to 61 characters",
}  # fmt: skip


def limits(shadow: ShadowLimits, trial: TrialLimits) -> dict[str, int | float]:
    """By the names of their options."""
    return {name: getattr(shadow, one) for one, name in SHADOW.items()} | {
        name: getattr(trial, one) for one, name in TRIAL.items()
    }


DEFAULTS = limits(ShadowLimits(), TrialLimits())


def own_limits(rollout: Rollout) -> dict[str, int | float]:
    """Those that differ from the defaults."""
    found = limits(rollout.shadow, rollout.trial)
    return {name: value for name, value in found.items() if value != DEFAULTS[name]}


def whom(audience: Audience) -> str:
    """ "all", or what it is for."""
    parts = [f"{name} {', '.join(getattr(audience, name))}" for name in AUDIENCE if getattr(audience, name) != ("*",)]
    return "; ".join(parts) or "all"


def differences(before: Rollout, after: Rollout) -> list[str]:
    """What is tried otherwise, and for whom, than by the channel's last rollout."""
    was, now = limits(before.shadow, before.trial), limits(after.shadow, after.trial)
    lines = [f"{name} {was[name]} -> {now[name]}" for name in now if was[name] != now[name]]
    if before.audience != after.audience:
        lines.append(f"for {whom(before.audience)} -> {whom(after.audience)}")
    return lines


def in_words(err: ValidationError) -> str:
    """The first thing that is wrong: option, what was found, what is allowed."""
    first = err.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "whole"
    name = _NAMES.get(err.title, {}).get(field, field)
    return f"--{name.replace('_', '-')}: found {first['input']!r}: {allowed(field, first)}"


def allowed(field: str, error: Any) -> str:
    """For a field of pydantic's `error`; never a regular expression."""
    return _WORDS.get(field) or str(error["msg"])
