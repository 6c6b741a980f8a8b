"""BatchNormalization that no weights can take in, as a convolution of each channel by itself.

It stands behind a ReLU, a sum or a concatenation in pre-activation ResNets (He et al., 2016,
arXiv:1603.05027), DenseNets and TDNNs. In fp32 nothing is gained. But onnxruntime has no int8
kernel for it: between two int8 convolutions it costs a conversion to fp32 and another layout, and
the way back.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from compress.quantization.rewriting.affine import normalization
from compress.quantization.rewriting.graph import Graph


def as_convolutions(model: ModelProto) -> int:
    """Put convolutions in the place of BatchNormalization; returns how many."""
    graph = Graph(model)
    for node in graph.nodes("BatchNormalization"):
        rank, affine = graph.rank(node.input[0]), normalization(graph, node)
        if rank is None or rank < 3 or affine is None:
            continue
        factor, shift = (part.astype(np.float32) for part in affine)
        weight = graph.add_constant(node.input[1], factor.reshape(-1, *[1] * (rank - 1)))
        inputs = [node.input[0], weight, graph.add_constant(node.input[2], shift)]
        new = graph.add_node("Conv", inputs, node.output[0], group=len(factor))
        graph.replace(node, {node.input[0]}, [new])
    return graph.finish()
