"""Parameters against Keras's own count, operations against TensorFlow's graph."""

from __future__ import annotations

import math
from typing import Any

import pytest

from configs.schema import Size
from pretrain.bert.cost import (
    encoder_operations,
    encoder_parameters,
    pretraining_operations,
    pretraining_parameters,
)
from pretrain.bert.encoder import build_backbone, build_pretraining_model

SIZE = Size(name="one", layers=3, hidden=32, heads=4, intermediate=80)
VOCABULARY, POSITIONS = 101, 24


def test_parameters_are_those_of_the_model() -> None:
    backbone = build_backbone(SIZE, vocabulary=VOCABULARY, positions=POSITIONS, dropout=0.0)
    expected = encoder_parameters(SIZE, vocabulary=VOCABULARY, positions=POSITIONS)
    assert backbone.count_params() == expected
    model = build_pretraining_model(SIZE, vocabulary=VOCABULARY, positions=POSITIONS, dropout=0.0)
    expected = pretraining_parameters(SIZE, vocabulary=VOCABULARY, positions=POSITIONS)
    assert sum(v.value.shape.num_elements() for v in model.trainable_variables) == expected


def test_bert_base_has_its_published_number_of_parameters() -> None:
    # Devlin et al. (2019), Section 3: 110M and 340M.
    base = Size(name="base", layers=12, hidden=768, heads=12)
    large = Size(name="large", layers=24, hidden=1024, heads=16)
    assert encoder_parameters(base, vocabulary=30522, positions=512) == 109_482_240
    assert encoder_parameters(large, vocabulary=30522, positions=512) == pytest.approx(
        340e6, rel=0.02
    )


def multiplications(operation: Any) -> int:
    """Multiplications of a matrix product of a graph, from its shapes; 0 for anything else."""
    if operation.type not in ("MatMul", "BatchMatMulV2", "Einsum"):
        return 0
    left, right = (tuple(one.shape) for one in operation.inputs)
    if operation.type == "Einsum":
        first, second = operation.get_attr("equation").decode().split("->")[0].split(",")
        return math.prod(
            {
                **dict(zip(first, left, strict=True)),
                **dict(zip(second, right, strict=True)),
            }.values()
        )
    turned = "transpose_a" if operation.type == "MatMul" else "adj_x"
    inner = left[-2] if operation.get_attr(turned) else left[-1]
    return inner * math.prod(operation.outputs[0].shape)


def test_operations_are_those_of_the_matrix_products_in_the_graph() -> None:
    import tensorflow as tf

    rows, length, predictions = 2, 16, 4
    model = build_pretraining_model(SIZE, vocabulary=VOCABULARY, positions=length, dropout=0.0)
    inputs = {
        name: tf.zeros((rows, predictions if name == "mask_positions" else length), tf.int32)
        for name in model.input
    }
    graph = tf.function(lambda one: model(one, training=False)).get_concrete_function(inputs).graph
    total = sum(multiplications(one) for one in graph.get_operations())
    expected = pretraining_operations(
        SIZE, rows=rows, length=length, predictions=predictions, vocabulary=VOCABULARY
    )
    next_sentence = 2 * rows * SIZE.hidden * 2
    assert 3 * (2 * total - next_sentence) == expected
    assert expected > 3 * encoder_operations(SIZE, rows=rows, length=length)
