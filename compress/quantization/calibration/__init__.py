"""Ranges of activations from samples, in one pass and bounded memory, shared by all int8 schemes.

collecting.py    runs the samples, several runs beside each other
splitting.py     what is run at once: parts of a batch
seeing.py        one run, counted
observed.py      which tensors of a graph are looked at, and the session that gives them
tensor.py        what is kept of each tensor
histogram.py     a histogram of fixed size whose range grows
ranges.py        percentile, entropy and mean squared error on such a histogram
statistics.py    all tensors of a graph: their ranges by each method, saved and loaded
stored.py        statistics of earlier passes, used again
shared.py        one calibration for all candidates of `compress.quantization.candidates`
"""

from compress.quantization.calibration.collecting import collect
from compress.quantization.calibration.statistics import Ranges, Statistics

__all__ = ["Ranges", "Statistics", "collect"]
