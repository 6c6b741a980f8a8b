"""What a bag of character n-grams reaches on the reviews: the bar for the Transformer.

    python -m benchmarks.text_baseline                  about a minute
    python -m benchmarks.text_baseline --splits 1 2 3   and the recipe's models, on fresh splits

TF-IDF of one to three characters and a linear support vector machine (scikit-learn), its
regularisation chosen on the validation split. The recipe's settings were chosen with the test
figures of split 0 in view; other splits say what they are worth where nobody looked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.data import reviews
from compress.data.references import load_task
from compress.data.task import Split
from compress.measure.config import BenchConfig
from compress.pipeline.runner import run
from compress.recipe.parse import load_recipe

STRENGTHS = (0.1, 0.2, 0.5, 1.0)


RESULTS = Path(__file__).parent / "results" / "reviews_splits.json"
STAGES = ("pretrain", "train", "student")


def main() -> None:
    """Print the accuracy; with splits, of all models on each of them, and store it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--splits", type=int, nargs="*", default=[])
    for split in (splits := parser.parse_args().splits):
        figures = on_split(split)
        print(f"split {split}: {figures}", flush=True)
        stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(stored | {f"split {split}": figures}, indent=1) + "\n")
    if not splits:
        print(f"TF-IDF and linear SVM on the reviews, test accuracy: {test_accuracy():.4f}")


def on_split(seed: int) -> dict[str, float]:
    """Test accuracy on another split: the bar's, the trained Transformer's, its student's."""
    reviews.SPLIT_SEED = seed
    recipe = load_recipe(Path("recipes/transformer.yaml"), ())
    bench = replace(recipe.stages[-1], config=BenchConfig(batch=(1,), workers=1, rounds=2))
    kept = [stage for stage in recipe.stages if stage.name in STAGES]
    with tempfile.TemporaryDirectory() as folder:
        report = run(replace(recipe, stages=(*kept, bench)), Path(folder)).report
    found = {arm.name.partition("-")[2]: arm.quality for arm in report.arms}
    return {"linear SVM": test_accuracy()} | {
        name: quality.value for name, quality in found.items() if quality is not None
    }


def test_accuracy() -> float:
    """Accuracy on the test split with the regularisation that is best on validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    task = load_task("reviews")
    train, validation, test = (_texts(part) for part in (task.train, task.validation, task.test))
    vectorizer = TfidfVectorizer(analyzer=_grams, sublinear_tf=True, min_df=2, lowercase=False)
    features = vectorizer.fit_transform(train)
    held_out, unseen = vectorizer.transform(validation), vectorizer.transform(test)
    labels = [part.targets.numpy() for part in (task.train, task.validation, task.test)]
    models: list[Any] = [LinearSVC(C=strength).fit(features, labels[0]) for strength in STRENGTHS]
    best = max(models, key=lambda model: float(model.score(held_out, labels[1])))
    return float(best.score(unseen, labels[2]))


def _texts(split: Split) -> list[list[int]]:
    assert split.lengths is not None
    rows = zip(split.inputs.tolist(), split.lengths.tolist(), strict=True)
    return [tokens[:length] for tokens, length in rows]


def _grams(tokens: list[int]) -> list[tuple[int, ...]]:
    return [
        tuple(tokens[at : at + size]) for size in (1, 2, 3) for at in range(len(tokens) - size + 1)
    ]


if __name__ == "__main__":
    main()
