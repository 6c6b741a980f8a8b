"""Whether two models can take each other's place: what they take, and what they give."""

from __future__ import annotations

from pathlib import Path

from compress.errors import ShapeMismatch
from compress.runtime.onnxruntime import Feeds, Session


def check_alike(
    baseline: Path,
    candidate: Path,
    device: str = "cpu",
    sample: Feeds | None = None,
    length: int | None = None,
) -> list[str]:
    """Refuse two models that do not do the same job; gives notes on what differs and may.

    Args:
        sample: a few samples; made from the declared shapes where None.
        length: of the dimensions that these leave open.

    Raises:
        ShapeMismatch: they take different inputs, or their first outputs differ in shape.
    """
    sessions = Session(baseline, device), Session(candidate, device)
    taken = [[(e.name, e.type, _sizes(e.shape)) for e in session.inputs] for session in sessions]
    if not _fit(*taken):
        raise ShapeMismatch(
            f"the models take different inputs: {baseline} {_shown(taken[0])}; {candidate} "
            f"{_shown(taken[1])}. A gate compares two models on the same samples: export both with "
            "the same input names, types and shapes."
        )
    if sample is None and not _fit(*taken, same_open=True):
        raise ShapeMismatch(
            f"{baseline} takes {_shown(taken[0])}, {candidate} {_shown(taken[1])}: without data an "
            f"open dimension is {length or 1}, and the two would be timed on different inputs. "
            "Name the task with --data."
        )
    feeds = sample if sample is not None else sessions[0].example(2, length=length)
    shapes = [list(session.run(feeds).shape) for session in sessions]
    if shapes[0] != shapes[1]:
        given = ", ".join(str(list(feed.shape)) for feed in feeds)
        raise ShapeMismatch(
            f"the models give different outputs for the same inputs {given}: {baseline} "
            f"{shapes[0]}, {candidate} {shapes[1]}. Their first outputs have to mean the same."
        )
    return _differences(*sessions)


Entry = tuple[str, str, list[int | None]]


def _sizes(shape: list[int | str | None]) -> list[int | None]:
    """The declared dimensions; None for one that is open."""
    return [size if isinstance(size, int) else None for size in shape]


def _fit(before: list[Entry], after: list[Entry], *, same_open: bool = False) -> bool:
    """Same names, types and ranks, and no dimension that both declare and differ in.

    Args:
        same_open: whether dimensions behind the batch have to be open in both or in neither.
    """
    if [(*entry[:2], len(entry[2])) for entry in before] != [
        (*entry[:2], len(entry[2])) for entry in after
    ]:
        return False
    for (_, _, old), (_, _, new) in zip(before, after, strict=True):
        for place, pair in enumerate(zip(old, new, strict=True)):
            if pair[0] != pair[1] and (None not in pair or (same_open and place > 0)):
                return False
    return True


def _shown(entries: list[Entry]) -> str:
    shapes = [["?" if size is None else str(size) for size in sizes] for _, _, sizes in entries]
    return ", ".join(
        f"{name} {kind} [{', '.join(shape)}]"
        for (name, kind, _), shape in zip(entries, shapes, strict=True)
    )


def _differences(before: Session, after: Session) -> list[str]:
    """What a caller who reads outputs by name or type would notice."""
    notes = []
    old, new = ([entry.name for entry in session.outputs] for session in (before, after))
    if len(old) != len(new):
        notes.append(
            f"The baseline has {len(old)} outputs, the candidate {len(new)}; only the first was "
            "compared."
        )
    elif old != new:
        notes.append(f"The outputs are named {', '.join(old)} before and {', '.join(new)} now.")
    types = before.outputs[0].type, after.outputs[0].type
    if types[0] != types[1]:
        notes.append(f"The first output was {types[0]} and is {types[1]} now.")
    return notes
