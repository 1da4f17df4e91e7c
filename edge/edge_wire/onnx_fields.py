"""The messages and field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto that a model may have.

What stands in no table here is refused by the reader; what is a `remark` is skipped.
"""

from __future__ import annotations

from edge_wire.onnx_wire import BYTES, FIXED32, FIXED64, INT, MOST_TEXT_BYTES, Slot, Table, entries, remark, text

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
ITEM_BYTES = {
    "float32": 4, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "int32": 4, "int64": 8, "bool": 1, "float16": 2,
    "float64": 8, "uint32": 4, "uint64": 8, "bfloat16": 2,
}  # fmt: skip
EXTERNAL = 1
MOST_WEIGHTS_IN_NUMBERS = 1 << 20
"""Weights may also be written as single numbers, which must be counted one by one; exporters do so with a few."""

# Field numbers of onnx.proto, by message.
MODEL_IR, MODEL_GRAPH, MODEL_OPSET, MODEL_TRAINING, MODEL_FUNCTIONS = 1, 7, 8, 20, 25
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE, GRAPH_SPARSE = 1, 5, 11, 12, 13, 15
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_FLOATS, ATTRIBUTE_INTS = 1, 3, 5, 6, 7, 8
ATTRIBUTE_GRAPHS, ATTRIBUTE_TYPE, ATTRIBUTE_REFERENCE, ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES = 11, 20, 21, 22, 23
TENSOR_DIMS, TENSOR_DTYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_EXTERNAL, TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_TYPE_ELEMENT, TENSOR_TYPE_SHAPE = 1, 2, 1, 1, 2
SHAPE_DIM, DIM_VALUE, DIM_NAME = 1, 1, 2

MODEL: Table = {
    MODEL_IR: Slot("IR version", INT),
    2: remark("producer"),
    3: remark("producer version"),
    4: remark("domain"),
    5: Slot("model version", INT),
    6: remark("description"),
    MODEL_GRAPH: Slot("graph", BYTES),
    MODEL_OPSET: Slot("opset", BYTES, many=True),
    14: entries("metadata"),
    MODEL_TRAINING: Slot("training", BYTES, many=True),
    MODEL_FUNCTIONS: Slot("functions", BYTES, many=True),
}
OPSET: Table = {OPSET_DOMAIN: text("domain"), OPSET_VERSION: Slot("version", INT)}
GRAPH: Table = {
    GRAPH_NODE: Slot("node", BYTES, many=True),
    2: text(),
    GRAPH_INITIALIZER: Slot("initialiser", BYTES, many=True),
    10: remark("description"),
    GRAPH_INPUT: Slot("input", BYTES, many=True),
    GRAPH_OUTPUT: Slot("output", BYTES, many=True),
    GRAPH_VALUE: Slot("value", BYTES, many=True),
    14: Slot("quantisation", BYTES, many=True, most=MOST_TEXT_BYTES, inner={1: text(), 2: entries("parameters")}),
    GRAPH_SPARSE: Slot("sparse weights", BYTES, many=True),
    16: entries("metadata"),
}
NODE: Table = {
    NODE_INPUT: text("input", many=True),
    NODE_OUTPUT: text("output", many=True),
    NODE_NAME: text(),
    NODE_OPERATOR: text("operator"),
    NODE_ATTRIBUTE: Slot("attribute", BYTES, many=True),
    6: remark("description"),
    NODE_DOMAIN: text("domain"),
    9: entries("metadata"),
}
ATTRIBUTE: Table = {
    ATTRIBUTE_NAME: text(),
    2: Slot("number", FIXED32),
    ATTRIBUTE_INT: Slot("integer", INT),
    4: remark("text"),
    ATTRIBUTE_TENSOR: Slot("tensor", BYTES),
    ATTRIBUTE_GRAPH: Slot("graph", BYTES),
    ATTRIBUTE_FLOATS: Slot("numbers", FIXED32, BYTES, many=True),
    ATTRIBUTE_INTS: Slot("integers", INT, BYTES, many=True, most=10 * 1024),
    9: remark("texts", many=True),
    ATTRIBUTE_GRAPHS: Slot("graphs", BYTES, many=True),
    13: remark("description"),
    ATTRIBUTE_TYPE: Slot("type", INT),
    ATTRIBUTE_REFERENCE: text("reference"),
    ATTRIBUTE_SPARSE: Slot("sparse weights", BYTES),
    ATTRIBUTE_SPARSES: Slot("sparse weights", BYTES, many=True),
}
FIELD_OF_TYPE = {1: 2, 2: ATTRIBUTE_INT, 3: 4, 4: ATTRIBUTE_TENSOR, 6: 7, 7: ATTRIBUTE_INTS, 8: 9}
"""Which field an attribute of a type has its value in; other types are graphs, sparse weights and lists of tensors."""
TENSOR: Table = {
    TENSOR_DIMS: Slot("dims", INT, BYTES, many=True, most=1024),
    TENSOR_DTYPE: Slot("type", INT),
    4: Slot("float numbers", FIXED32, BYTES, many=True),
    5: Slot("32-bit numbers", INT, BYTES, many=True),
    7: Slot("64-bit numbers", INT, BYTES, many=True),
    TENSOR_NAME: text(),
    TENSOR_RAW: Slot("bytes", BYTES),
    10: Slot("double numbers", FIXED64, BYTES, many=True),
    11: Slot("unsigned numbers", INT, BYTES, many=True),
    12: remark("description"),
    TENSOR_EXTERNAL: Slot("external data", BYTES, many=True),
    TENSOR_LOCATION: Slot("location", INT),
    16: entries("metadata"),
}
FIXED_NUMBERS = {4: 4, 10: 8}
NUMBERS_OF_DTYPE = {
    "float32": 4, "float64": 10, "int64": 7, "uint32": 11, "uint64": 11, "int32": 5, "int16": 5, "int8": 5,
    "uint16": 5, "uint8": 5, "bool": 5, "float16": 5, "bfloat16": 5,
}  # fmt: skip
VALUE: Table = {
    VALUE_NAME: text(),
    VALUE_TYPE: Slot("type", BYTES),
    3: remark("description"),
    4: entries("metadata"),
}
TYPE: Table = {TYPE_TENSOR: Slot("tensor type", BYTES), 6: text("denotation")}
TENSOR_TYPE: Table = {TENSOR_TYPE_ELEMENT: Slot("element", INT), TENSOR_TYPE_SHAPE: Slot("shape", BYTES)}
SHAPE: Table = {SHAPE_DIM: Slot("dim", BYTES, many=True)}
DIM: Table = {DIM_VALUE: Slot("length", INT), DIM_NAME: text(), 3: text("denotation")}
