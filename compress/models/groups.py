"""What can be pruned: units that stand and fall together, and the parts of tensors that they own.

A model that knows its own groups declares them; cutting a unit out of every tensor that it touches
then gives exactly the model that a smaller configuration builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """The part of one tensor that a group's units own.

    Attributes:
        tensor: its name in the state dict.
        dim: the dimension that is cut.
        rows: (units, k), the positions along `dim` that each unit owns.
        outgoing: whether the unit acts through these weights: where they are zero, it does nothing.
    """

    tensor: str
    dim: int
    rows: Tensor
    outgoing: bool = False


@dataclass(frozen=True)
class Group:
    """Units of one kind that can be removed one by one.

    Attributes:
        name: unique in the model, such as "layers.0.units".
        kind: "units" (of a recurrent layer), "front" (vectors and channels before the first layer),
            "heads", "feed_forward", or "width" (of the residual stream).
        units: how many there are.
        pieces: every tensor that has to be cut.
        partners: units in the same place of groups that must keep equally many, such as the two
            directions of a layer; the name of that set of groups, or the group's own.
    """

    name: str
    kind: str
    units: int
    pieces: tuple[Piece, ...]
    partners: str


@runtime_checkable
class Prunable(Protocol):
    """A model that declares its groups."""

    def prune_groups(self) -> list[Group]:
        """All groups, for the model as it is."""

    def pruned_config(self, kept: dict[str, int]) -> dict[str, Any]:
        """The configuration with so many units left in each set of partners, as plain data."""

    def without_layer(self, layer: int) -> tuple[dict[str, Any], dict[str, str]]:
        """The configuration without one layer, and new to old name of every tensor that stays.

        Raises:
            ValueError: the layer cannot go, as it is the only one or changes the width.
            IndexError: there is no such layer.
        """
