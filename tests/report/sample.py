"""A report as the MNIST recipe leaves it: two branches, two controls, refused candidates."""

from __future__ import annotations

from typing import Any

from compress.report import Report
from compress.report.measure_schema import CONTROL, Latency, RawCell, RawMeasurement
from compress.report.schema import Arm, Budget, Candidate, Comparison, Gate, Quality

N = 1000


def quality(value: float, low: float, high: float) -> Quality:
    """Accuracy on the test split."""
    return Quality(
        metric="accuracy",
        value=value,
        n=N,
        interval=(low, high),
        higher_is_better=True,
        details={"macro_f1": value - 0.001, "loss": 0.04 + (1 - value)},
    )


def latency(one: float, many: float) -> list[Latency]:
    """Batch 1, fastest on one thread, and batch 32, fastest on two."""
    points = [(1, 1, one, True), (1, 2, one * 1.2, False), (32, 1, many * 1.7, False)]
    points.append((32, 2, many, True))
    return [
        Latency(
            batch=batch,
            threads=threads,
            median_ms=median,
            p90_ms=median * 1.06 if batch == 1 else None,
            n=3000 if batch == 1 else 400,
            throughput=batch / median * 1000,
            best=best,
            workers_ms=[median * 0.99, median, median * 1.02],
        )
        for batch, threads, median, best in points
    ]


def _arm(name: str, kind: str, parent: str | None, shape: str, **more: Any) -> Arm:
    """An arm of one of three architectures, fp32 unless `more` says otherwise."""
    parameters, macs, size_bytes, operators = _SHAPES[shape]
    value, low, high = _ACCURACY[name]
    fields = {
        "name": name,
        "kind": kind,
        "parent": parent,
        "file": f"{name}/model.onnx",
        "runtime": "onnxruntime",
        "device": "cpu",
        "precision": "fp32",
        "parameters": parameters,
        "macs": macs,
        "size_bytes": size_bytes,
        "operators": {kind: {"fp32": count} for kind, count in operators.items()},
        "quality": quality(value, low, high),
        "validation": quality(value + 0.002, low + 0.002, min(1.0, high + 0.002)),
    }
    return Arm.model_validate(fields | more)


_SHAPES: dict[str, tuple[int, int, int, dict[str, int]]] = {
    "whole": (272_186, 31_021_056, 1_090_000, {"Conv": 21, "Gemm": 1}),
    "pruned": (74_310, 12_380_000, 316_000, {"Conv": 21, "Gemm": 1}),
    "tiny": (13_114, 298_000, 56_200, {"Conv": 3, "Gemm": 1}),
}


def _arms() -> list[Arm]:
    quantized = {
        "precision": "int8 (static)",
        "operators": {"Conv": {"int8": 20, "fp32": 1}, "Gemm": {"int8": 1}},
        "size_bytes": 103_000,
        "peak_memory_bytes": 9_800_000,
    }
    light = {"precision": "fp32, int8 weights", "size_bytes": 24_800, "seconds": 9.4}
    return [
        _arm(
            "1-train",
            "train",
            None,
            "whole",
            latency=latency(0.634, 10.7),
            seconds=141.0,
            peak_memory_bytes=18_400_000,
        ),
        _arm("2-prune", "prune", "1-train", "pruned", latency=latency(0.331, 4.92), seconds=38.2),
        _arm("3-distill", "distill", "2-prune", "pruned", latency=latency(0.329, 4.95)),
        _arm(
            "4-quantize", "quantize", "3-distill", "pruned", latency=latency(0.142, 1.61)
        ).model_copy(update=quantized),
        _arm(
            "5-student", "distill", "1-train", "tiny", latency=latency(0.0092, 0.151), seconds=88.0
        ).model_copy(update={"peak_memory_bytes": 5_300_000}),
        _arm(
            "6-student-int8", "quantize", "5-student", "tiny", latency=latency(0.00931, 0.153)
        ).model_copy(update=light),
        _arm("7-student-alone", "train", None, "tiny", control_of="5-student"),
        _arm("8-pruned-alone", "train", None, "pruned", control_of="3-distill"),
    ]


_ACCURACY = {
    "1-train": (0.989, 0.980, 0.994),
    "2-prune": (0.981, 0.971, 0.988),
    "3-distill": (0.988, 0.979, 0.993),
    "4-quantize": (0.987, 0.978, 0.992),
    "5-student": (0.987, 0.978, 0.992),
    "6-student-int8": (0.986, 0.977, 0.992),
    "7-student-alone": (0.976, 0.965, 0.984),
    "8-pruned-alone": (0.980, 0.969, 0.987),
}


def _comparisons(arms: list[Arm]) -> list[Comparison]:
    baseline = arms[0]
    found: list[Comparison] = []
    for arm in arms[1:]:
        drop = round(_ACCURACY["1-train"][0] - _ACCURACY[arm.name][0], 6)
        found.append(
            _comparison(arm, "quality", difference=drop, interval=(drop - 0.005, drop + 0.005))
        )
        found.append(_comparison(arm, "size", ratio=arm.size_bytes / baseline.size_bytes))
        for batch in (1, 32) if arm.latency else ():
            before, after = baseline.best_latency(batch), arm.best_latency(batch)
            assert before
            assert after
            ratio = after.median_ms / before.median_ms
            found.append(
                _comparison(
                    arm, "latency", batch=batch, ratio=ratio, interval=(ratio * 0.97, ratio * 1.03)
                )
            )
    return found


def _comparison(arm: Arm, what: str, **figures: object) -> Comparison:
    verdict = "ok" if what == "quality" else "improved"
    named = {"baseline": "1-train", "candidate": arm.name, "what": what, "verdict": verdict}
    return Comparison.model_validate({**named, **figures, "n": 1000 if what == "quality" else 5})


def _candidates() -> list[Candidate]:
    rows = [
        ("4-quantize", "static-u8s8", True, "fastest within the budget", 0.001, 0.432, 103_000),
        ("4-quantize", "static-s8s8", False, "slower than static-u8s8", 0.001, 0.611, 103_400),
        ("4-quantize", "dynamic", False, "drop of 2.3 points exceeds 0.5", 0.023, 0.91, 101_900),
        (
            "4-quantize",
            "qat",
            False,
            "could not be built: Gemm without calibration",
            None,
            None,
            None,
        ),
        ("6-student-int8", "weights-only", True, "smallest file", 0.001, 1.012, 24_800),
        (
            "6-student-int8",
            "static-u8s8",
            False,
            "2.1 times slower than its input",
            0.004,
            2.1,
            29_100,
        ),
    ]
    fields = ("stage", "name", "kept", "reason", "drop", "latency_ratio", "size_bytes")
    return [Candidate.model_validate(dict(zip(fields, row, strict=True))) for row in rows]


_RECIPE = {
    "task": "mnist",
    "model": "cnn",
    "budget": {"max_drop": 0.005, "minimise": "latency"},
    "stages": [{"train": {"epochs": 15}}, {"prune": {"macs": 0.4}}],
}


def sample_report() -> Report:
    """The whole report; `model_copy(update=…)` makes the cases that tests need."""
    arms = _arms()
    return Report(
        tool_version="0.1.0",
        created="2026-11-22T02:01:42Z",
        command="compress run recipes/cnn.yaml prune.macs=0.4",
        title="ResNet-20 on MNIST",
        machine={
            "processor": "AMD EPYC 7B13",
            "cores": 2,
            "memory_bytes": 8_200_000_000,
            "instructions": ["avx2", "fma"],
            "governor": None,
            "versions": {"onnxruntime": "1.23.2", "torch": "2.9.1"},
        },
        recipe=_RECIPE,
        recipe_hash="9f2c" * 16,
        baseline="1-train",
        final="5-student",
        budget=Budget(
            max_drop=0.005,
            minimise="latency",
            status="met",
            explanation="5-student drops 0.2 points [-0.3, 0.7] of the allowed 0.5; "
            "a proof would need about 2,800 samples.",
        ),
        arms=arms,
        comparisons=_comparisons(arms),
        candidates=_candidates(),
        measurement={"workers": 5, "rounds": 12, "threads": [1, 2], "spinning": False},
        notes=["The machine has two cores; batch 1 gains nothing from the second."],
    )


def crowd(count: int, workers: int = 3) -> Report:
    """So many arms: arm-1 the fastest, the baseline arm-0 the slowest, every fifth better."""
    base = sample_report()
    arms = []
    for place in range(count):
        median = 0.01 * 1.1 ** (place or count)
        points = [
            point.model_copy(
                update={"workers_ms": [point.median_ms * (1 + w / 1000) for w in range(workers)]}
            )
            for point in latency(median, 20 * median)
        ]
        value = 0.9 + 0.0004 * place + 0.05 * (place % 5 == 1)
        update = {"name": f"arm-{place}", "latency": points}
        arms.append(
            base.arms[0].model_copy(
                update={**update, "quality": quality(value, value - 0.01, value + 0.01)}
            )
        )
    return base.model_copy(
        update={"arms": arms, "baseline": "arm-0", "final": None, "comparisons": []}
    )


def check_report() -> Report:
    """A candidate 12 % slower at batch 1 in every process, and as fast at batch 32."""
    base = sample_report()
    arms = [
        base.arms[0].model_copy(update={"name": name, "latency": latency(one, many)})
        for name, one, many in (("baseline", 0.5, 10.0), ("candidate", 0.56, 10.0))
    ]
    found = [
        Comparison(
            baseline="baseline",
            candidate="candidate",
            what="latency",
            batch=batch,
            ratio=ratio,
            interval=(ratio * 0.99, ratio * 1.01),
            n=3,
            verdict=verdict,
        )
        for batch, ratio, verdict in ((1, 1.12, "regressed"), (32, 1.0, "ok"))
    ]
    gate = Gate(
        verdict="regressed",
        margin=0.05,
        max_drop=None,
        size_margin=0.01,
        workers=3,
        control={1: 1.002, 32: 0.997},
        fit=True,
        explanation="regressed: latency at batch 1 1.120 × [1.109, 1.131].",
    )
    times = {1: (500_000, 560_000, 501_000), 32: (10_000_000, 10_000_000, 9_970_000)}
    # The machine slows down over the rounds and differs between the workers, for all arms alike.
    drift = [[100, 130, 110, 150], [90, 95, 120, 100], [200, 210, 190, 220]]
    cells = [
        RawCell(
            arm=name,
            batch=batch,
            threads=1,
            blocks_ns=[[one * share // 100 for share in worker] for worker in drift],
        )
        for batch, medians in times.items()
        for name, one in zip(("baseline", "candidate", CONTROL), medians, strict=True)
    ]
    update = {"arms": arms, "comparisons": found, "gate": gate, "baseline": "baseline"}
    update |= {"raw": RawMeasurement(cells=cells)}
    return base.model_copy(
        update=update | {"final": None, "budget": None, "candidates": [], "notes": []}
    )
