"""Which model judged: said in reports and in vitals."""

from __future__ import annotations

from edge_wire.fields import Block, Digest, Label


class ModelRef(Block):
    name: Label
    version: Label
    digest: Digest
    """Of the model package's manifest."""
    variant_digest: Digest
    """Of the ONNX file that really ran."""
