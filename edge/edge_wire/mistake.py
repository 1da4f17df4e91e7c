"""What a person is told of bytes or values that do not fit one of our blocks: the first mistake, in one line.

Who reads settings that people write says more: `edge_inspect.toml_model`, `cloud_inspect.settings`.

    except ValidationError as err:
        raise BadRelease("rollout-refused", f"{path}: {first_mistake(err, 'rollout')}") from err
"""

from __future__ import annotations

from pydantic import ValidationError

MOST_KEY, MOST_WORDS = 120, 300
"""What was sent may hold keys of any length, and they come back in the error."""


def first_mistake(err: ValidationError, whole: str) -> str:
    """`audience.sites.0: String should match ...`: key and what is wrong. `whole` stands where no key is to blame."""
    first = err.errors(include_url=False, include_context=False, include_input=False)[0]
    key = ".".join(str(step) for step in first["loc"])[:MOST_KEY] or whole
    return f"{key}: {first['msg'][:MOST_WORDS]}"
