"""A sweep says what varies; what it cannot mean is refused in one line."""

import pytest

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.spec.sweep import SweepSpec

BASE = {"data": {"name": "milk10k"}, "network": {"backbone": "x"}, "train": {"epochs": 2}}


def sweep(**fields: object) -> SweepSpec:
    given = {"kind": "sweep", "name": "t", "base": BASE, "variant": [{"name": "base"}, {"name": "b"}], **fields}
    return SweepSpec.parse(given, "t.toml")


def refused(**fields: object) -> str:
    with pytest.raises(EdgeskinError) as caught:
        sweep(**fields)
    line = caught.value.line()
    assert "\n" not in line
    return line


def test_a_variant_changes_what_it_names_and_nothing_else():
    spec = sweep(
        variant=[{"name": "b", "network": {"attention_stages": []}, "train": {"clinical_weight": 1.0}}],
    )
    network, train = spec.trained(spec["b"], seed=5)
    assert (network.backbone, network.attention_stages) == ("x", ())
    assert (train.epochs, train.clinical_weight, train.seed) == (2, 1.0, 5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"variant": [{"name": "b", "network": {"atention_stages": []}}]}, "did you mean 'attention_stages'"),
        ({"variant": [{"name": "b", "train": {"epoch": 3}}]}, "variant 'b', train: got 'epoch'"),
        ({"variant": [{"name": "b", "train": {"epochs": 0}}]}, "epochs"),
        ({"variant": [{"name": "b", "train": {"seed": 3}}]}, "seed is no variant"),
        ({"variant": [{"name": "b", "train": {"threads": 3}}]}, "threads is no variant"),
        ({"variant": [{"name": "b"}, {"name": "b"}]}, "names of variants repeat"),
        ({"variant": [{"name": "B b"}]}, "variant.0.name"),
        ({"variant": [{"name": "../b"}]}, "variant.0.name"),
        ({"variant": []}, "variant"),
        ({"variant": [{"name": "b", "seeds": [1, 1]}]}, "a seed is named twice"),
        ({"seeds": [1, 1]}, "a seed is named twice"),
        ({"seeds": []}, "seeds"),
        ({"evaluate": ["par"]}, "evaluate.0"),
        ({"evaluate": ["clinical"]}, "variant base can be evaluated in none of ['clinical']"),
        ({"comparison": [{"question": "q", "a": "base", "b": "c"}]}, "unknown variant in the comparison 'q'"),
        ({"comparison": [{"question": "q", "a": "base", "b": "b", "b_reading": "clinical"}]}, "unknown reading of"),
        ({"comparision": []}, "did you mean 'comparison'"),
        ({"kind": "suite"}, "kind"),
        ({"base": {**BASE, "data": {"name": "x", "root": "here"}}}, "base.data.root"),
        ({"base": {**BASE, "train": {"devices": 2}}}, "each run of a sweep has one process"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, words):
    assert words in refused(**fields)


def test_readings_are_those_the_network_can_give():
    spec = sweep(
        evaluate=["pair", "dermoscopic", "clinical", "clinical-branch"],
        variant=[{"name": "base"}, *({"name": m, "network": {"modalities": m}} for m in ("clinical", "dermoscopic"))],
    )
    assert [spec.readings(variant) for variant in spec.variant] == [
        ("pair", "dermoscopic", "clinical-branch"), ("clinical",), ("dermoscopic",),
    ]  # fmt: skip


def test_a_part_of_a_sweep():
    spec = sweep(
        seeds=[4, 5, 6],
        variant=[{"name": "base"}, {"name": "b", "seeds": [7, 8]}, {"name": "c"}],
        comparison=[{"question": "q", "a": "base", "b": "c"}, {"question": "r", "a": "base", "b": "b"}],
    )
    part = spec.reduced(["b", "base"], seeds=1)
    assert [(v.name, v.seeds) for v in part.variant] == [("base", ()), ("b", (7,))]
    assert part.seeds == (4,)
    assert [q.question for q in part.comparison] == ["r"]
    assert spec.reduced() == spec
    with pytest.raises(EdgeskinError, match=r"unknown variant: got 'bass'.*did you mean 'base'"):
        spec.reduced(["bass"])


def test_sweeps_lie_among_the_suites_and_neither_is_taken_for_the_other():
    assert {"ablation", "ablation-backbones", "ablation-phantom"} <= set(catalog.sweep_names())
    assert not set(catalog.sweep_names()) & set(catalog.suite_names())
    with pytest.raises(EdgeskinError, match="unknown suite: got 'ablation'"):
        catalog.suite("ablation")
    with pytest.raises(EdgeskinError, match=r"unknown sweep: got 'quick'; possible: ablation"):
        catalog.sweep("quick")


def test_the_ablation_asks_the_same_of_lesions_and_of_phantoms():
    real, drawn = catalog.sweep("ablation"), catalog.sweep("ablation-phantom")
    assert real.variant == drawn.variant
    assert real.comparison == drawn.comparison
    assert len(real.seeds) >= 3
    weights = [real.trained(v, 0)[1].clinical_weight for v in real.variant if v.group in ("the method", "loss")]
    assert sorted(weights) == [0.25, 0.5, 0.75, 1.0]
