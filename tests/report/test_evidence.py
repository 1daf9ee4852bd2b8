"""What proves a bundle, as the page and its twins tell it."""

import json
import re
from pathlib import Path

import pytest

from edgeskin.errors import EdgeskinError
from edgeskin.report import evidence, html, inputs, proof_charts, search_charts
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.gated import GateCheck
from edgeskin.spec.manifest import Gated
from edgeskin.spec.result import Estimate
from edgeskin.spec.search import Candidate, LayerEffect


def proof_of(given: inputs.ReportInput) -> Evidence:
    proof = given.bundles[0].evidence
    assert proof is not None
    return proof


def with_proof(given: inputs.ReportInput, **changes: object) -> inputs.ReportInput:
    proof = proof_of(given).model_copy(update=changes)
    first = given.bundles[0].model_copy(update={"evidence": proof})
    return given.model_copy(update={"bundles": (first, *given.bundles[1:])})


def with_manifest(given: inputs.ReportInput, **changes: object) -> inputs.ReportInput:
    first = given.bundles[0]
    first = first.model_copy(update={"manifest": first.manifest.model_copy(update=changes)})
    return given.model_copy(update={"bundles": (first, *given.bundles[1:])})


def pages(given: inputs.ReportInput, folder: Path) -> tuple[str, str]:
    page = html.render(given, folder / "report.html")
    return page.read_text(), page.with_suffix(".md").read_text()


def test_both_pages_tell_all_of_the_evidence(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    for page in pages(given_proven, tmp_path):
        for expected in (
            "-0.0172 [-0.0469, 0.0000]",  # a difference of the gate
            "cannot tell",
            "0.05: Reason of the margin of sensitivity.",
            "a loss of sensitivity below 6.2 % could go unseen.",
            "Against it: dermoscopic alone: balanced accuracy, fails: it reaches to -0.091.",
            "sex = female",  # a sub-group
            "1.4% [0.6%, 3.2%]",  # flips
            f"{0xA5:016x}",  # a lesion that flips
            "96.63%",  # of the products run in INT8
            "BF16, fell back",
            "&lt;0.01%",  # of the products: what is small is not nothing
            "25 min 44 s of 30 min; it ended before the search did",
            "6. nncf bias correction, 2 blocks in FP32",
            "34% slower",
            "network.encoder.blocks.1.1",
            "1.084",  # a stage that INT8 slows down
            "0.469 [0.460, 0.480] of the latency of the fastest higher precision, 2.13x as fast",
            "INT8, rest in FP32",
            "learning rate",
            "2e-05",
        ):
            assert expected in page, expected


def test_a_bundle_that_was_not_gated_is_loud(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    page, markdown = pages(given_proven, tmp_path)
    assert '<p class="banner alarm" role="note"><strong>NOT GATED: tiny.</strong>' in page
    assert page.index("NOT GATED: tiny") < page.index("<h2>Summary</h2>")
    assert '<td class="loud">NOT GATED</td><td>passed</td>' in page
    assert "> **NOT GATED: tiny.** It is not shown to be as good as FP32: not passed: 10 of 12 checks hold." in markdown
    assert markdown.index("NOT GATED: tiny") < markdown.index("## Summary")
    assert "| gate | **NOT GATED** | passed |" in markdown
    assert "NOT GATED: tiny-two" not in page + markdown
    assert "The record of the gate is not there" in page  # of the second bundle


@pytest.mark.parametrize(
    ("gated", "said"),
    [
        (Gated(status="passed", why="12 of 12 checks hold"), "passed"),
        (Gated(status="ungated", why="recipe r has no gate"), "NOT GATED"),
        (Gated(status="ungated"), "NOT GATED"),
    ],
)
def test_the_summary_says_what_the_manifest_says(
    given_all: inputs.ReportInput, gated: Gated, said: str, tmp_path: Path
) -> None:
    page, _ = pages(with_manifest(given_all, gated=gated), tmp_path)
    assert re.search(rf'<th scope="row">gate</th><td[^>]*>{said}</td>', page)
    assert ('class="banner alarm"' in page) is (said == "NOT GATED")


def test_an_fp32_bundle_needs_no_gate_and_says_why_int8_was_not_shipped(
    given_proven: inputs.ReportInput, tmp_path: Path
) -> None:
    speed = proof_of(given_proven).speed
    assert speed is not None
    slower = speed.model_copy(update={"int8_is_faster": False, "why": "int8 takes 1.20 times as long as fp32 in bf16"})
    given = with_manifest(
        with_proof(given_proven, speed=slower),
        precision="fp32",
        gated=Gated(status="not needed", why="the bundle is FP32"),
    )
    for page in pages(given, tmp_path):
        assert "NOT GATED: tiny" not in page
        assert "not needed (FP32)" in page
        assert "INT8 not shipped: int8 takes 1.20 times as long as fp32 in bf16" in page
        assert "This is of the INT8 build, which was not shipped." in page
        assert "INT8 share of the multiply-accumulates" not in page
    old = given.bundles[0].manifest.model_copy(update={"gated": Gated(status="ungated", why="made before")})
    assert evidence.word(given.bundles[0].model_copy(update={"manifest": old})) == "not needed (FP32)"


def test_int8_that_is_shipped_but_not_faster_is_told(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    speed = proof_of(given_proven).speed
    assert speed is not None
    slower = speed.model_copy(update={"int8_is_faster": False, "ratio": Estimate(reason="one round"), "why": ""})
    page, _ = pages(with_proof(given_proven, speed=slower), tmp_path)
    assert "INT8 is not faster here: it is not faster than higher precision on this machine" in page


def test_an_audit_below_its_floor_stands_out(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    audit = proof_of(given_proven).audit
    assert audit is not None
    low = audit.model_copy(update={"floor": 0.99, "passed": False, "why": "pair: 96.6 % below 99 %"})
    given = with_proof(given_proven, audit=low)
    assert given.bundles[0].verify is not None
    here = given.bundles[0].verify.model_copy(update={"audit": low})
    first = given.bundles[0].model_copy(update={"verify": here})
    page, _ = pages(given.model_copy(update={"bundles": (first, given.bundles[1])}), tmp_path)
    assert '<li class="bad">INT8 share of the multiply-accumulates as compiled: 96.6%' in page
    assert "Too little runs in INT8: pair: 96.6 % below 99 %." in page
    assert "Where it was verified: pair: 96.6 % below 99 %." in page
    assert "run in INT8 where it was verified" in page


@pytest.mark.parametrize("part", ["gate", "audit", "search", "speed", "qat"])
def test_each_part_may_be_absent(given_proven: inputs.ReportInput, part: str, tmp_path: Path) -> None:
    headings = {
        "gate": "Gate", "audit": "Precision of the graph", "search": "Search", "speed": "INT8 against higher precision",
        "qat": "Quantisation-aware training",
    }  # fmt: skip
    only = {name: None for name in headings if name != part}
    given = with_proof(given_proven, **only)
    page, _ = pages(given.model_copy(update={"bundles": given.bundles[:1]}), tmp_path)
    found = re.findall(r"<h3>([^<]+)</h3>", page)
    assert [name for name in found if name in headings.values()] == [headings[part]]


def test_a_bundle_without_evidence_has_none_of_it(given_all: inputs.ReportInput, tmp_path: Path) -> None:
    page, _ = pages(given_all, tmp_path)
    for absent in ("<h3>Gate", "<h3>Flipped lesions", "<h3>Search", "<details", "<img", "img-src"):
        assert absent not in page, absent


def test_evidence_of_another_bundle_is_refused(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    with pytest.raises(EdgeskinError, match="evidence is of another bundle than tiny"):
        html.render(with_proof(given_proven, bundle="another"), tmp_path / "r.html")


def test_what_evidence_says_is_escaped(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>|x'
    proof = proof_of(given_proven)
    assert proof.gate is not None
    assert proof.audit is not None
    assert proof.search is not None
    layers = proof.audit.modes["pair"].layers
    spoilt = tuple(layer.model_copy(update={"name": evil, "origin": (), "kind": evil}) for layer in layers)
    modes = {"pair": proof.audit.modes["pair"].model_copy(update={"layers": spoilt})}
    given = with_proof(
        given_proven,
        gate=proof.gate.model_copy(
            update={
                "checks": tuple(c.model_copy(update={"why": evil, "reason": evil}) for c in proof.gate.checks),
                "notes": (evil,),
                "target": evil,
            }
        ),
        audit=proof.audit.model_copy(update={"modes": modes, "engine": {evil: evil}}),
        search=proof.search.model_copy(
            update={
                "candidates": tuple(
                    c.model_copy(update={"name": evil, "why_not": evil}) for c in proof.search.candidates
                ),
                "ranking": tuple(c.model_copy(update={"group": evil}) for c in proof.search.ranking),
                "notes": (evil,),
            }
        ),
    )
    given = with_manifest(given, gated=Gated(status="ungated", why=evil))
    page, markdown = pages(given, tmp_path)
    assert "<script>alert" not in page
    assert page.count("<script") == 1
    width = 0
    for row in markdown.splitlines():
        width = width if row.startswith("|") else 0
        cells = len(re.findall(r"(?<!\\)\|", row)) if row.startswith("|") else 0
        width = width or cells
        assert cells == width, row


def test_the_json_keeps_the_evidence(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    pages(given_proven, tmp_path)
    again = inputs.ReportInput.parse(json.loads((tmp_path / "report.json").read_text()), "report.json")
    assert again.bundles[0].evidence == given_proven.bundles[0].evidence


def test_keys_of_tables_are_unique_with_two_proofs(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    first, second = given_proven.bundles
    proof = proof_of(given_proven).model_copy(update={"bundle": "tiny-two"})
    given = given_proven.model_copy(update={"bundles": (first, second.model_copy(update={"evidence": proof}))})
    page, _ = pages(given, tmp_path)
    keys = re.findall(r'<table data-key="([^"]+)"', page)
    assert len(keys) == len(set(keys))
    assert {"gate", "gate-groups-2", "candidates-2", "sensitivity", "not-int8"} <= set(keys)


def gate_check(metric: str, low: float, high: float) -> GateCheck:
    middle = Estimate(value=(low + high) / 2, low=low, high=high)
    return GateCheck(
        mode="pair", metric=metric, lesions=9, positives=3, fp32=middle, bundle=middle, difference=middle, margin=0.1,
        reason="because it is so", verdict="holds",
    )  # fmt: skip


def test_a_calibration_error_has_no_interval_of_its_own_whatever_an_older_record_holds(
    given_proven: inputs.ReportInput, tmp_path: Path
) -> None:
    page, markdown = pages(given_proven, tmp_path)
    rows = [row for row in markdown.splitlines() if row.startswith(("| calibration error", "| melanoma calibration"))]
    gate = [row for row in rows if row.endswith("| holds |")]
    assert len(gate) == 2  # in both modes
    assert len(rows) > len(gate)  # and those of the verification
    for row in gate:
        assert re.fullmatch(r"\| calibration error \| [\d.]+ \| [\d.]+ \| \+[\d.]+ \[.*\] \| .* \|", row), row
    for row in rows:
        assert row in gate or "[" not in row
    assert "range would miss the true calibration error" in page


def test_forest_turns_errors_round() -> None:
    """A larger error lies left of the middle line, a larger sensitivity right of it."""
    places = {}
    for metric in ("sensitivity", "ece", "class_flips"):
        drawn = proof_charts.forest_chart("f", [("m", [(metric, gate_check(metric, 0.02, 0.06))])])
        assert drawn is not None
        zero = re.search(r'<line x1="([\d.]+)"[^>]* class="axis"', drawn)
        dots = re.findall(r'<circle cx="([\d.]+)"', drawn)
        assert zero
        places[metric] = float(dots[-1]) - float(zero[1])
    assert places["sensitivity"] > 10
    assert places["ece"] == places["class_flips"] == pytest.approx(-places["sensitivity"])
    undefined = gate_check("auc", 0, 0).model_copy(update={"difference": Estimate(reason="none")})
    assert proof_charts.forest_chart("f", [("m", [("auc", undefined)])]) is None


def test_search_chart_marks_what_was_chosen_and_joins_the_front(given_proven: inputs.ReportInput) -> None:
    search = proof_of(given_proven).search
    assert search is not None
    drawn = search_charts.search_chart("s", search.candidates, search.chosen)
    assert drawn is not None
    assert drawn.count('class="ring"') == 2  # on the legend and on the chosen one
    titles = re.findall(r"<g><title>([^<]+)</title>", drawn)
    assert len(titles) == 7  # one was not timed
    front = re.search(r'<polyline points="([^"]+)" class="front"', drawn)
    assert front
    # recipe is beaten by smooth quant; then one, two and eight blocks: four points, three steps between them
    assert len(front[1].split()) == 4 + 3
    assert search_charts.search_chart("s", search.candidates[-2:], search.chosen) is None


def test_search_chart_stands_equal_and_perfect_candidates(given_proven: inputs.ReportInput) -> None:
    search = proof_of(given_proven).search
    assert search is not None

    def like(divergence: float, p50: float) -> Candidate:
        one = search.candidates[0]
        return one.model_copy(
            update={"effect": one.effect.model_copy(update={"divergence": divergence}), "p50_ms": p50}
        )

    for values in ([(0.01, 5.0)] * 3, [(0.0, 5.0), (0.0, 5.0)], [(0.0, 5.0), (0.3, 4.0)], [(-1e-17, 1.0), (1e-3, 2.0)]):
        drawn = search_charts.search_chart("s", [like(*value) for value in values], "none of them")
        assert drawn is not None
        assert "nan" not in drawn
        assert drawn.count("<g><title>") == len(values)


def test_sensitivity_sorts_and_hatches_what_was_taken_back(given_proven: inputs.ReportInput) -> None:
    search = proof_of(given_proven).search
    assert search is not None
    one = search.ranking[0]
    many = [one.model_copy(update={"group": f"net.a.{n}", "gain": 1e-4 * n}) for n in range(40)]
    drawn = search_charts.sensitivity_chart("s", many, ["net.a.38"])
    assert drawn is not None
    names = re.findall(r"<g><title>([^:]+):", drawn)
    assert names == [f"net.a.{n}" for n in range(39, 39 - search_charts.MOST_BARS, -1)]
    assert drawn.count('class="hatch"') == 2  # on the legend and on its bar
    assert ">a.39<" in drawn  # modules that all share are left out
    assert search_charts.sensitivity_chart("s", [], []) is None
    none = [LayerEffect(group="x", layers=1, macs_share=1, divergence=0, gain=-0.0, class_flips=0)]
    alone = search_charts.sensitivity_chart("s", none, [])
    assert alone is not None
    assert "nan" not in alone


def test_precision_map_has_every_layer_and_hatches_what_fell_back(given_proven: inputs.ReportInput) -> None:
    audit = proof_of(given_proven).audit
    assert audit is not None
    found = audit.modes["pair"]
    drawn = proof_charts.precision_map("p", found)
    assert drawn is not None
    titles = re.findall(r"<g><title>(\d+)\. ", drawn)
    assert titles == [str(n) for n in range(1, 61)]
    for style, times in (("p-int8", 56), ("p-bf16", 1), ("p-unknown", 1), ("p-fp32", 2)):
        legend = 2 if style == "p-bf16" else 1  # what fell back is shown in the look of the first that did
        assert drawn.count(f'class="{style}"') == 2 * times + legend, style
    assert ">fell back<" in drawn
    assert "BF16, planned INT8" in drawn
    none = found.model_copy(update={"layers": (), "macs": 0})
    assert proof_charts.precision_map("p", none) is None


def test_in_a_crowd_the_chosen_one_has_its_number(given_proven: inputs.ReportInput) -> None:
    search = proof_of(given_proven).search
    assert search is not None
    one = search.candidates[0]
    crowd = [one.model_copy(update={"name": str(n), "p50_ms": 4.0 + 0.001 * (n % 5)}) for n in range(30)]
    drawn = search_charts.search_chart("s", crowd, "3")
    assert drawn is not None
    numbers = re.findall(r'class="halo">(\d+)<', drawn)
    assert len(numbers) == len(set(numbers))
    assert "4" in numbers  # the chosen one has its number
