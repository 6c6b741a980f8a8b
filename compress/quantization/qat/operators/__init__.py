"""ONNX's operators in torch, as far as gradients can flow through them."""

from compress.quantization.qat.operators import elementwise, layers, recurrent, shapes
from compress.quantization.qat.operators.elementwise import Operator

OPERATORS: dict[str, Operator] = {
    **elementwise.OPERATORS,
    **shapes.OPERATORS,
    **layers.OPERATORS,
    **recurrent.OPERATORS,
}

__all__ = ["OPERATORS", "Operator"]
