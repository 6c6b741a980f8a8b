"""The table of `benchmarks.quantization`, worked by hand."""

from __future__ import annotations

import pytest

from benchmarks.peers.table import against, best, geometric_mean, markdown, summary, with_alone

PEERS = {
    "fp32": {"speed": {"1": 1.0, "32": 1.0}},
    "default": {"speed": {"1": 0.5, "32": 0.8}, "reason": "loses 0.2000, allowed are 0.01"},
    "dynamic": {"speed": {"1": 2.0, "32": 0.5}},
    "other runtime": {"speed": {"1": 1.5, "32": 4.0}},
    "wrecked": {"speed": {"1": 9.0, "32": 9.0}, "reason": "loses 0.7000, allowed are 0.01"},
    "unbuilt": {"reason": "could not be built: no kernel"},
}
OURS = {"what": "static @ openvino", "speed": {"1": 3.0, "32": 2.0}}
HERE = {"what": "dynamic @ onnxruntime", "speed": {"1": 2.0, "32": 1.6}}
RESULTS = {"model": {"peers": PEERS, "ours": OURS, "ours on onnxruntime": HERE}}


def test_the_best_is_the_fastest_of_those_that_count():
    assert best(PEERS, "1", PEERS) == ("dynamic", 2.0)
    assert best(PEERS, "32", PEERS) == ("other runtime", 4.0)
    with pytest.raises(ValueError):
        best(PEERS, "1", ["wrecked", "unbuilt"])


def test_arms_that_lost_too_much_are_compared_only_where_asked():
    assert against(PEERS, HERE, ["default"]) == {}
    assert against(PEERS, HERE, ["default"], counting=False) == {"1": 4.0, "32": 2.0}
    assert against(PEERS, HERE, ["unbuilt"], counting=False) == {}


def test_the_geometric_means_are_over_models_and_batches():
    found = summary(RESULTS, ["fp32", "default", "dynamic"], "default")
    assert found["ours over the best of all peers"] == pytest.approx((1.5 * 0.5) ** 0.5)
    own = found["onnxruntime alone, over its own tools' best"]
    assert own == pytest.approx((1.0 * 1.6) ** 0.5)
    assert found["onnxruntime alone, over its default static"] == pytest.approx(8**0.5)
    assert found["below the best peer"] == ["model, batch 32: 0.50 ×"]
    assert geometric_mean([]) is None


def test_our_own_loss_is_told():
    lossy = RESULTS["model"] | {"ours": OURS | {"reason": "loses 0.0200, allowed are 0.01"}}
    found = summary({"model": lossy}, ["fp32"], "default")
    assert found["ours over the tolerance on the final rows"] == [
        "model: loses 0.0200, allowed are 0.01"
    ]


def test_the_table_has_a_line_for_each_batch():
    lines = markdown(RESULTS).splitlines()[2:]
    assert lines == [
        "| model | 1 | 2.00 × dynamic | 3.00 × static @ openvino | 2.00 × dynamic @ onnxruntime "
        "| 1.50 × |",
        "| model | 32 | 4.00 × other runtime | 2.00 × static @ openvino "
        "| 1.60 × dynamic @ onnxruntime | 0.50 × |",
    ]


def test_at_each_batch_size_the_file_for_it_alone_counts():
    general = {
        "what": "a",
        "lost": 0.0,
        "speed": {"1": 2.0, "32": 2.0},
        "interval": {},
        "threads": {},
    }
    alone = {"what": "b", "lost": 0.5, "reason": "loses", "speed": {"1": 1.0, "32": 3.0}}
    own = {"ours": general, "ours, batch 32 alone": alone}
    found = with_alone("ours", own, (1, 32))
    assert found["speed"] == {"1": 2.0, "32": 3.0}
    assert found["reason"] == "batch 32: loses"
    assert with_alone("ours", {"ours": general}, (1, 32))["alone"] == {}
    untimed = own | {"ours, batch 32 alone": {"what": "b", "reason": "cannot be timed"}}
    assert with_alone("ours", untimed, (1, 32))["speed"] == general["speed"]
    record = {"peers": PEERS, "ours": found, "ours on onnxruntime": general}
    lines = markdown({"model": record}).splitlines()
    assert "2.00 × a" in lines[-2]
    assert "3.00 × b" in lines[-1]
