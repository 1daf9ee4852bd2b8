"""A sweep's tables and its plot say what the record says."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json
from edgeskin.report import sweep as shown
from edgeskin.report.forest import forest
from edgeskin.spec.result import Estimate

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def test_the_tables_hold_every_variant_reading_claim_and_failure(result):
    text = shown.markdown(result)
    found = result.variants[0].readings[0].figures["macro_f1"]
    cell = f"{found.estimate.value:.3f} [{found.estimate.low:.3f}, {found.estimate.high:.3f}] ±{found.spread:.3f}"
    (row,) = [line for line in text.splitlines() if line.startswith("| shared / all |")]  # a bar would end the cell
    assert row.startswith(f"| shared / all | {cell} |")
    assert row.endswith("| 2.00 | 0.000 | 2 |")
    for title in ("both images, dermoscopic branch", "both images, clinical branch", "dermoscopic image alone"):
        assert f"| shared / all: {title} |" in text
    assert "clinical-only: clinical image alone" not in text  # its only reading stands in the first table
    assert text.count("<details>") == text.count("</details>") == 1
    assert "| 1, 1 failed |" in text
    assert "| broken | – |" in text
    assert "| clinical-only | 1 | stopped by a signal |" in text
    assert "| Both images beat one | no verdict: one common seed | 1 | macro-F1 > 0 | – | – | +" in text
    assert "| It runs | no verdict: one side has no finished run of a common seed | 0 |" in text
    claim = result.answers[2]
    judged = claim.differences["macro_f1"]
    told = f"{judged.estimate.value:+.3f} [{judged.with_seeds[0]:+.3f}, {judged.with_seeds[1]:+.3f}]"
    row = f"| Fused is not worse | {claim.verdict} | 2 | macro-F1 > -0.05 | {told} | ±{claim.resolvable:.3f} | +"
    assert row in text
    assert "| 2.00x | 2.00x |" in text
    assert "Drawn images: the figures say nothing about lesions." in text
    assert "60 lesions of the test role (2 more lack an image" in text
    assert "macro-F1 hangs: MEL 3" in text
    assert "draw" in text
    widths = {line.count("|") for line in text.split("\n\n")[0].splitlines()}
    assert widths == {10 + 1}  # every row of a table has its columns


def test_the_terminal_gets_fewer_figures(result):
    rows = shown.brief_rows(result)
    assert [row[0] for row in rows] == ["base", "clinical-only", "broken"]
    assert {len(row) for row in rows} == {len(shown.brief_columns(result))}
    assert "[" in rows[0][1]
    assert "[" not in rows[0][2]
    claims = shown.brief_answers(result)
    assert claims[0][1:3] == ("no verdict: one common seed", "1")
    assert claims[2][2] == "2"
    assert claims[2][3].endswith("bound -0.05")


def test_the_plot_shows_means_intervals_seeds_and_verdicts_where_they_belong(result):
    drawn = ET.fromstring(forest(result))
    words = [node.text for node in drawn.iter(f"{SVG}text")]
    assert {"shared | all", "clinical-only", "macro-F1", "AUC melanoma"} <= set(words)
    assert {"one seed: no verdict", "no verdict"} <= set(words)
    assert "broken" not in words  # it has no figure
    assert drawn.find(f"{SVG}title").text == "A <tiny> sweep: derm7pt, 60 lesions"
    dots = [node for node in drawn.iter(f"{SVG}circle") if node.get("class") == "dot"]
    rings = [node for node in drawn.iter(f"{SVG}circle") if node.get("class") == "seed"]
    spans = [node for node in drawn.iter(f"{SVG}line") if node.get("class") == "span"]
    assert len(dots) == len(spans) == 2 * 2 + 2  # two variants in two metrics, two claims
    wide = [node for node in drawn.iter(f"{SVG}line") if node.get("class") == "wide"]
    assert len(wide) == 2 + 1  # what has two seeds: a variant in two metrics, a claim
    last, whole = spans[-1], wide[-1]
    assert float(whole.get("x1")) < float(last.get("x1")) < float(last.get("x2")) < float(whole.get("x2"))
    assert len(rings) == 2 * (2 + 1) + 1 + 2
    for dot, span in zip(dots, spans, strict=True):
        assert float(span.get("x1")) <= float(dot.get("cx")) <= float(span.get("x2"))
        assert span.get("y1") == dot.get("cy")
    first, second = (result.variants[i].readings for i in (0, 1))
    assert first[0].figures["macro_f1"].estimate.value > second[0].figures["macro_f1"].estimate.value
    assert float(dots[0].get("cx")) > float(dots[1].get("cx"))


def test_conditions_tell_what_was_done_once_or_for_each_variant(result, suite_of):
    told = shown.conditions(result)
    assert "test_efficientnet at 32 px for 2 epochs, seeds 0, 1 (shared | all), seed 0 (clinical-only)" in told
    assert "resnet_of_nobody" not in told  # it never ran
    longer = suite_of(
        {
            "base": {},
            "clinical-only": {"network": {"backbone": "test_resnet", "modalities": "clinical"}, "train": {"epochs": 6}},
            "broken": {},
        },
        seeds=[0, 1, 2],
    )
    told = shown.conditions(result.model_copy(update={"suite": longer}))
    assert "test_efficientnet at 32 px for 2 epochs (shared | all), test_resnet at 32 px for 6 epochs (clinic" in told
    assert "2," not in told.partition("seeds")[2]  # planned, and not finished


def test_a_figure_that_cannot_be_had_says_why(result):
    one = result.variants[0].readings[0]
    nothing = one.figures["auc_melanoma"].model_copy(update={"estimate": Estimate(reason="undefined: no melanoma")})
    reading = one.model_copy(update={"figures": {**one.figures, "auc_melanoma": nothing}})
    lacking = result.variants[0].model_copy(update={"readings": (reading,)})
    found = result.model_copy(update={"variants": (lacking, *result.variants[1:])})
    assert "\n– AUC melanoma of shared | all: undefined: no melanoma.\n" in shown.markdown(found)
    alone = found.model_copy(update={"variants": (lacking,)})
    assert shown.gaps(alone) == ["AUC melanoma: undefined: no melanoma."]
    assert shown.gaps(result) == []


@pytest.fixture
def tables():
    spec = importlib.util.spec_from_file_location("benchmark_tables_of_sweeps", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_result_reaches_the_benchmarks_page_and_its_plot(result, tables, tmp_path):
    command = "edgeskin sweep ablation-phantom --root data/phantom --out runs/ablation-phantom --results benchmarks/"
    assert command in tables.ablation_phantom(tmp_path)
    assert tables.pictures(tmp_path) == {}
    (tmp_path / "ablation-phantom.json").write_text(pretty_json(result.to_json()))
    found = tables.ablation_phantom(tmp_path)
    assert found.endswith(shown.markdown(result))
    assert "](results/ablation-phantom.svg)" in found
    assert tables.pictures(tmp_path) == {tmp_path / "ablation-phantom.svg": forest(result)}
    (tmp_path / "ablation.json").write_text(pretty_json(result.to_json()))
    with pytest.raises(EdgeskinError, match="drawn images among those on real lesions"):
        tables.ablation(tmp_path)
