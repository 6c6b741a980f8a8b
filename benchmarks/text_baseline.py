"""What a bag of character n-grams reaches on the reviews: the bar for the Transformer.

    python -m benchmarks.text_baseline            about a minute

TF-IDF of one to three characters and a linear support vector machine (scikit-learn), its
regularisation chosen on the validation split.
"""

from __future__ import annotations

from typing import Any

from compress.data.references import load_task
from compress.data.task import Split

STRENGTHS = (0.1, 0.2, 0.5, 1.0)


def main() -> None:
    """Print the accuracy."""
    print(f"TF-IDF and linear SVM on the reviews, test accuracy: {test_accuracy():.4f}")


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
