"""What `benchmarks.quantization` compares with what: models, other tools, and the judging."""
