"""Rewriting any ONNX file into one that computes the same with fewer, larger nodes."""
