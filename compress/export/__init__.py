"""From torch to ONNX, the check that both agree, and what a graph consists of."""
