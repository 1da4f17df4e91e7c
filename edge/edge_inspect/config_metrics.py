"""`[metrics]`: numbers for Prometheus."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edge_inspect.config_table import Table


class MetricsConfig(Table):
    """`[metrics]`: numbers for Prometheus on this box (docs/metrics.md). Without this table no port is opened."""

    port: Annotated[int, Field(ge=1024, le=65535)] = 9464
    """http://127.0.0.1:PORT/metrics; never reachable from outside, let a collector on this box read it."""
