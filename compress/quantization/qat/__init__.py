"""Quantization-aware training of a quantized ONNX graph, in torch."""
