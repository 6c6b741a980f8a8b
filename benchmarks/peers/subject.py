"""A model that everybody quantizes: its file, its rows of three splits, and what is right."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.inputs import SPLITS, Rows
from benchmarks.peers.packages import CACHE

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """One model of the comparison.

    Attributes:
        name: as on the command line and in the table.
        source: where the weights are from.
        data: where the rows are from.
        quality: a key of `judge.QUALITIES`.
        tolerance: what may be lost of it.
        chunk: rows of a call while it is judged and calibrated; 1 where the file fixes it.
        batches: batch sizes that are timed.
        attention: whether it is a Transformer, which NNCF wants to be told.
        task: the reference task whose labels it is judged by; empty for others' models.
    """

    name: str
    source: str
    data: str
    quality: str
    tolerance: float = 0.01
    chunk: int = 32
    batches: tuple[int, ...] = (1, 32)
    attention: bool = False
    task: str = ""

    @property
    def folder(self) -> Path:
        """Where its file, its rows and the peers' files are."""
        return CACHE / "models" / self.name

    @property
    def onnx(self) -> Path:
        """The file as it came."""
        return self.folder / "model.onnx"

    def data_file(self, split: str) -> Path:
        """Rows of a split: one array for each input, by its name."""
        return self.folder / f"{split}.npz"

    def rows(self, split: str) -> Rows:
        """The rows of a split."""
        with np.load(self.data_file(split)) as stored:
            return {name: stored[name] for name in stored.files}

    def chunks(self, split: str) -> list[Rows]:
        """The rows of a split as calls; a last call of fewer rows is left out."""
        rows = self.rows(split)
        count = len(next(iter(rows.values())))
        starts = range(0, count - self.chunk + 1, self.chunk)
        return [{n: array[at : at + self.chunk] for n, array in rows.items()} for at in starts]

    def truth(self, split: str) -> Array:
        """Targets, or the answers of the fp32 model where there are none."""
        with np.load(self.folder / "truth.npz") as stored:
            found: Array = stored[split]
            return found

    def timed(self, batch: int) -> tuple[Array, ...]:
        """Rows of a timed call, in the order of the model's inputs."""
        with np.load(self.folder / "timed.npz") as stored:
            names = sorted({name.split("/")[0] for name in stored.files})
            return tuple(stored[f"{name}/{batch}"] for name in names)

    def store(self, rows: dict[str, Rows], truth: dict[str, Array], timed: dict[int, Rows]) -> None:
        """Write all that the other methods read."""
        for split in SPLITS:
            np.savez(self.data_file(split), **rows[split])  # type: ignore[arg-type]
        np.savez(self.folder / "truth.npz", **truth)  # type: ignore[arg-type]
        # np.load gives names as they were stored; numbers keep the order of the inputs.
        arrays = {
            f"{place:02d}/{batch}": array
            for batch, feeds in timed.items()
            for place, array in enumerate(feeds.values())
        }
        np.savez(self.folder / "timed.npz", **arrays)  # type: ignore[arg-type]
        text = json.dumps(asdict(self), indent=1)
        (self.folder / "subject.json").write_text(text + "\n")


def load_subject(folder: Path) -> Subject:
    """A subject that was stored."""
    found = json.loads((folder / "subject.json").read_text())
    return Subject(**(found | {"batches": tuple(found["batches"])}))
