"""A recipe's stages, one after the other, each from its parent; resumed where they stopped."""

from compress.pipeline.runner import Outcome, run

__all__ = ["Outcome", "run"]
