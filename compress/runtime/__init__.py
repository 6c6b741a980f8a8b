"""Runtimes behind one small interface: onnxruntime, OpenVINO, and torch in three ways."""
