"""Post-training quantization: the techniques, and the choice between them by measurement."""
