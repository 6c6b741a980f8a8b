"""Reference architectures, model references, and how a pruned model is rebuilt."""
