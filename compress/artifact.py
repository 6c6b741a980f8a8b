"""What a stage leaves: a folder with the model and a card that says how it came about.

    2-prune/
      card.json            everything below, and the SHA-256 of the other files
      model.safetensors    weights, where the stage made a torch model
      model.onnx           what runs

A folder is written beside its name and renamed, so a stop at any moment leaves the old or the new.
Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.errors import ArtifactError, OutputError
from compress.models.references import ModelSpec
from compress.onnx_files import model_digest, sha256

if TYPE_CHECKING:
    from torch import nn

CARD = "card.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"


class Card(BaseModel):
    """How an artifact came about.

    Attributes:
        kind: kind of the stage, such as "prune".
        name: name of the stage in its recipe.
        task: the data reference it was made with.
        key: SHA-256 of all inputs of the stage; equal keys mean equal work.
        parents: role ("from", "teacher", "like") to the identity of the artifact that played it.
        model: how to rebuild the torch model; None where the stage made only an ONNX file.
        config: the stage's settings, defaults filled in.
        versions: of the packages that took part.
        metrics: split name to the fields of a `Quality`.
        evidence: proof of effect: parameters, MACs, operators, differences, choices.
        files: file name to SHA-256.
        seconds: wall time of the stage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    kind: str
    name: str
    task: str | None = None
    key: str
    parents: dict[str, str] = {}
    model: ModelSpec | None = None
    config: dict[str, Any] = {}
    seed: int = 0
    versions: dict[str, str] = {}
    metrics: dict[str, Any] = {}
    evidence: dict[str, Any] = {}
    files: dict[str, str] = {}
    seconds: float = 0.0


@dataclass(frozen=True)
class Artifact:
    """A folder with a card whose files were all found, or a bare ONNX file with a card made for it.

    Attributes:
        file: the ONNX file where it is not the folder's own.
    """

    folder: Path
    card: Card
    file: Path | None = None

    @property
    def identity(self) -> str:
        """SHA-256 of what it was made from and what came of it; equal ones are interchangeable."""
        return digest([self.card.key, self.card.files])

    @property
    def onnx(self) -> Path:
        """Path of the ONNX file.

        Raises:
            ArtifactError: the artifact has none.
        """
        if self.file is not None:
            return self.file
        if ONNX not in self.card.files:
            raise ArtifactError(f"{self.folder}: has no {ONNX}; make one with `compress export`.")
        return self.folder / ONNX

    def load_model(self) -> nn.Module:
        """The torch model, rebuilt from its specification, weights loaded strictly, in eval mode.

        Raises:
            ArtifactError: there are no weights, or they do not fit the specification.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from compress.models.build import build

        if self.card.model is None or WEIGHTS not in self.card.files:
            raise ArtifactError(
                f"{self.folder}: holds an ONNX file and no torch weights; "
                f"use the {' or '.join(self.card.parents) or 'parent'} it was made from."
            )
        model = build(self.card.model)
        try:
            model.load_state_dict(load_file(self.folder / WEIGHTS), strict=True)
        except (SafetensorError, RuntimeError, OSError) as error:
            line = str(error).splitlines()[0]
            raise ArtifactError(f"{self.folder / WEIGHTS}: does not fit its card: {line}") from None
        return model.eval()


def wrap_onnx(path: Path) -> Artifact:
    """A bare ONNX file in the role of an artifact.

    Raises:
        ArtifactError: there is no such file.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected an ONNX model.")
    card = Card(kind="file", name=path.stem, key=model_digest(path))
    return Artifact(path.parent, card, file=path)


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def load_artifact(folder: Path) -> Artifact:
    """Open an artifact and check that its files are the ones its card names.

    Raises:
        ArtifactError: no folder, no card, a card of another version, or a changed or missing file.
    """
    path = folder / CARD
    if not path.is_file():
        raise ArtifactError(f"{folder}: no artifact here; expected a folder with a {CARD}.")
    try:
        card = Card.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ArtifactError(
            f"{path}: not a card of this version: {place}: {first['msg']}. "
            "Delete the folder and run the stage again."
        ) from None
    for name, expected in card.files.items():
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder}: {name} is missing, though its card names it.")
        if sha256(folder / name) != expected:
            raise ArtifactError(
                f"{folder / name}: changed or damaged since it was written (SHA-256 differs from "
                f"its card). Delete {folder} and run the stage again."
            )
    return Artifact(folder, card)


def _refuse_foreign(folder: Path) -> None:
    """An artifact may take an older artifact's place, and nobody else's."""
    if folder.is_dir() and (folder / CARD).exists():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder}: is there already and is no artifact; name another folder, or remove it."
        )


def _sweep(folder: Path) -> None:
    """Remove the scratch folders of processes that were killed while they wrote this one."""
    for leftover in folder.parent.glob(f".{folder.name}.*.*"):
        owner, _, role = leftover.name.removeprefix(f".{folder.name}.").partition(".")
        if role in ("partial", "old") and owner.isdigit() and not _writes(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)


def _writes(process: int) -> bool:
    """Whether another living process has that number; in a container a killed one had ours."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A scratch folder that takes `folder`'s place when the block ends without an error.

    Raises:
        OutputError: the place cannot be written: read-only, full, or a file is in the way.
    """
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        _refuse_foreign(folder)
        _sweep(folder)
        scratch.mkdir(parents=True)
        yield scratch
        _replace(scratch, folder)
    except OSError as error:
        if error.filename is not None and folder.name not in str(error.filename):
            raise  # not about this folder
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(scratch: Path, folder: Path) -> None:
    if not folder.exists():
        scratch.rename(folder)
        return
    _refuse_foreign(folder)
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """A scratch file that takes `path`'s place when the block ends without an error.

    Raises:
        OutputError: the place cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        scratch.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):  # the folder itself may be what could not be made
            scratch.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its name and rename it; OutputError where that cannot be."""
    with writing_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def finish(scratch: Path, card: Card, model: nn.Module | None = None) -> Card:
    """Write weights and card into a scratch folder; the card then names every file beside it."""
    if model is not None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        # Cloned, as safetensors refuses weights that share their memory.
        tensors = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
        try:
            save_file(tensors, scratch / WEIGHTS)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error
    files = {path.name: sha256(path) for path in sorted(scratch.iterdir()) if path.is_file()}
    card = card.model_copy(update={"files": files})
    (scratch / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    for name in files:  # safetensors writes for the owner only
        (scratch / name).chmod((scratch / CARD).stat().st_mode)
    return card
