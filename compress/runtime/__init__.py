"""Runtimes behind one small interface; today onnxruntime on cpu and cuda."""
