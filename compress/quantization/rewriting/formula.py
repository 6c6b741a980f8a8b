"""What a chain of additions and multiplications computes, however an exporter wrote it down.

A value that is made from others by sums, differences, products, quotients and powers is a
polynomial in them. Comparing polynomials instead of graphs finds `0.5 * x * (1 + e)`,
`x * (e + 1) / 2` and `x * (0.5 + 0.5 * e)` by one rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from onnx import NodeProto

from compress.quantization.rewriting.graph import Graph

#: Names of the values that are multiplied, sorted, to the factor before them; () is the constant.
Polynomial = dict[tuple[str, ...], float]

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Neg", "Pow")
#: Allowed relative error of a factor: exporters write 1.41421 and 0.797885, nobody writes 1.4.
_PRECISION = 3e-5
_DEGREE, _DEPTH, _TERMS = 4, 12, 8


def term(*names: str) -> tuple[str, ...]:
    """The key of a product."""
    return tuple(sorted(names))


def same(found: Polynomial | None, wanted: Polynomial) -> bool:
    """Whether all factors agree."""
    if found is None:
        return False
    return all(
        abs(found.get(key, 0.0) - wanted.get(key, 0.0)) <= _PRECISION * abs(wanted.get(key, 0.0))
        for key in found.keys() | wanted.keys()
    )


def polynomial(graph: Graph, name: str, leaves: set[str], rank: int = 1) -> Polynomial | None:
    """A value as a polynomial in others, all of fp32; None where it is none.

    Args:
        leaves: names of the values that it may be made of, besides numbers.
        rank: of those values; numbers of a higher one would change the shape.
    """
    return _Reader(graph, leaves, rank).read(name, _DEPTH)


class _Reader:
    def __init__(self, graph: Graph, leaves: set[str], rank: int) -> None:
        self._graph, self._leaves, self._rank = graph, leaves, rank

    def read(self, name: str, depth: int) -> Polynomial | None:
        if name in self._leaves:
            return {(name,): 1.0}
        number = self._graph.scalar(name, self._rank)
        if number is not None:
            return {(): number}
        node = self._graph.maker(name, *_ARITHMETIC)
        if node is None or not depth:
            return None
        if node.op_type == "Pow":
            return self._power(node, depth)
        parts = [self.read(part, depth - 1) for part in node.input]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return _limited(_combined(node.op_type, known))

    def _power(self, node: NodeProto, depth: int) -> Polynomial | None:
        exponent = self._graph.number(node.input[1], self._rank)
        base = self.read(node.input[0], depth - 1)
        if base is None or exponent not in (1.0, 2.0, 3.0, 4.0):
            return None
        found: Polynomial | None = {(): 1.0}
        for _ in range(int(exponent)):
            found = _limited(_product(found, base)) if found is not None else None
        return found


def _combined(kind: str, parts: list[Polynomial]) -> Polynomial | None:
    if kind == "Neg":
        return _scaled(parts[0], -1.0)
    left, right = parts
    if kind == "Mul":
        return _product(left, right)
    if kind == "Div":
        divisor = right.get((), 0.0)
        return _scaled(left, 1 / divisor) if right.keys() == {()} and divisor else None
    return _sum(left, right if kind == "Add" else _scaled(right, -1.0))


def _scaled(part: Polynomial, factor: float) -> Polynomial:
    return {key: factor * value for key, value in part.items()}


def _sum(left: Polynomial, right: Polynomial) -> Polynomial:
    return {key: left.get(key, 0.0) + right.get(key, 0.0) for key in left.keys() | right.keys()}


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    found: Polynomial = {}
    for (key, factor), (other, number) in product(left.items(), right.items()):
        both = term(*key, *other)
        found[both] = found.get(both, 0.0) + factor * number
    return found


def _limited(found: Polynomial | None) -> Polynomial | None:
    """None for what no activation is, so that long chains of products end early."""
    if found is None or len(found) > _TERMS or any(len(key) > _DEGREE for key in found):
        return None
    return found


def bases(graph: Graph, name: str, wanted: Callable[[str], Polynomial]) -> Iterator[str]:
    """Values in which another one is the wanted polynomial."""
    seen, names = {name}, [name]
    for _ in range(_DEPTH):
        if not names:
            return
        base = names.pop(0)
        if same(polynomial(graph, name, {base}, rank(graph, base)), wanted(base)):
            yield base
        node = graph.maker(base, *_ARITHMETIC)
        for part in () if node is None else node.input:
            if part not in seen and graph.number(part, 8) is None:
                seen.add(part)
                names.append(part)


def rank(graph: Graph, name: str) -> int:
    """The rank of a value, at least 1, which is taken where it is not known."""
    return max(graph.rank(name) or 1, 1)


def result(graph: Graph, name: str, leaves: set[str], wanted: Polynomial) -> NodeProto | None:
    """The node whose result is a polynomial, looked for from one of its values on.

    Args:
        name: the value; it and what is made from it on the way have one reader each.
    """
    highest = max(rank(graph, leaf) for leaf in leaves)
    while (node := graph.only_reader(name)) is not None and node.op_type in _ARITHMETIC:
        name = node.output[0]
        found = polynomial(graph, name, leaves, highest)
        if found is None:
            return None
        if same(found, wanted):
            return node
    return None
