"""Explanations as a chapter of the page: what the checks say, pictures on the page alone, another network refused."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeskin import chain
from edgeskin.bundle import Bundle
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json
from edgeskin.report import html, inputs, saliency
from edgeskin.spec.explanation import CAUTION, UNASKED, Deletion, Explained, Explanation, Picture, Randomised
from edgeskin.spec.result import Estimate

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"


def picture(seed: int) -> str:
    kept = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(kept, "JPEG")
    return base64.b64encode(kept.getvalue()).decode()


def about(value: float, spread: float = 0.03) -> Estimate:
    return Estimate(value=value, low=value - spread, high=value + spread)


@pytest.fixture
def given(bundle: Bundle) -> inputs.ReportInput:
    return inputs.ReportInput(
        title="one", bundles=(inputs.BundleInput(manifest=bundle.manifest, sha256=bundle.sha256),)
    )


@pytest.fixture
def record(given: inputs.ReportInput) -> Explained:
    both = Explanation(
        lesion="00a1", mode="pair", task="DIAG", predicted="MEL", explained="MEL", probability=0.7123, truth="MEL",
        share={"clinical": 0.25, "dermoscopic": 0.75}, quality={"clinical": (), "dermoscopic": ()}, assessable=True,
        unasked=("swapped",),
        pictures={
            "clinical": Picture(frame=picture(1), saliency=picture(2)),
            "dermoscopic": Picture(frame=picture(3), saliency=picture(4)),
        },
    )  # fmt: skip
    alone = Explanation(
        lesion="00b2", mode="dermoscopic", task="DIAG", predicted="NEV", explained="MEL", probability=0.1, truth=None,
        share=None, quality={"dermoscopic": ("blurred",)}, assessable=False, unasked=(),
        pictures={"dermoscopic": Picture(frame=picture(5), saliency=picture(6))},
    )  # fmt: skip
    return Explained(
        created="2026-01-01T00:00:00Z", run="milk", backbone="test_efficientnet", method="hirescam", stage="blocks.3",
        checkpoint_sha256=given.bundles[0].manifest.provenance.checkpoint_sha256, grid=(14, 14), score="log-odds",
        task="DIAG",
        data="milk10k", role="test", rule="Lesions by <rule>", phantom=False, lesions=(both, alone), versions={},
        deletion=Deletion(
            lesions=60, share=0.2, patches=4, probability=0.7, salient=about(0.43), random=about(0.16),
            middle=about(0.42), over_random=about(0.27), over_middle=about(0.01),
        ),
        randomised=Randomised(lesions=60, networks=3, correlation=about(0.01), magnitude=about(0.06)),
    )  # fmt: skip


def test_the_chapter_stands_on_the_page_and_its_figures_in_the_twins(
    given: inputs.ReportInput, record: Explained, tmp_path: Path
) -> None:
    page = html.render(given.model_copy(update={"explained": (record,)}), tmp_path / "report.html").read_text()
    assert "<h2>Saliency, milk</h2>" in page
    assert CAUTION in page.replace("&#39;", "'")
    chapter = page.partition("<h2>Saliency, milk</h2>")[2].partition("</section>")[0]
    for seed in range(1, 7):
        assert chapter.count(f'src="data:image/jpeg;base64,{picture(seed)}"') == 1
    assert "img-src data:;" in page
    assert "This page contains images of the data set." in page
    assert "clinical: 25% of the saliency" in chapter
    assert "dermoscopic: no saliency for this class" in chapter
    assert "not assessable: no answer would be given" in chapter
    assert "most probable: NEV" in chapter
    assert "Lesions by &lt;rule&gt;" in chapter
    assert "<rule>" not in page
    states = re.findall(r'<li class="(good|bad)">([^<]+)</li>', chapter)
    assert [good for good, _ in states] == ["good", "bad", "good"]
    assert states[0][1].startswith(
        "Without the 20% most salient pixels the probability of the most probable class falls by 0.270 [0.240, 0.300]"
    )
    assert states[1][1].startswith("Not shown to be better than a disc in the middle: without the 20%")
    assert f"<li>{UNASKED}</li>" in chapter
    twins = [(tmp_path / f"report.{end}").read_text() for end in ("md", "json")]
    for twin in twins:
        assert "0.712" in twin
        assert "unasked" in twin or UNASKED in twin
        assert not any(picture(seed)[:80] in twin for seed in range(1, 7))
    assert "| 00a1 | clinical + dermoscopic | MEL | MEL | MEL | 0.712 | 25% | 75% |" in twins[0]
    assert picture(1)[:80] not in repr(record)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"deletion": None, "randomised": None}, "The maps are not checked"),
        (
            {"randomised": Randomised(lesions=9, networks=3, correlation=about(0.5), magnitude=about(0.5))},
            "form as well",
        ),
        (
            {"randomised": Randomised(lesions=9, networks=3, correlation=Estimate(), magnitude=Estimate(reason="why"))},
            "Not known whether the maps come from what was learned: why",
        ),
    ],
)
def test_doubts_are_told_as_such(record: Explained, changes: dict[str, object], words: str) -> None:
    states = saliency.chapter(record.model_copy(update=changes), 1).states
    assert any(words in state.words and state.good is False for state in states)


def test_a_figure_without_interval_shows_nothing(record: Explained) -> None:
    alone = Estimate(value=0.27, reason="no interval: all lesions are of one patient")
    assert record.deletion is not None
    gone = record.deletion.model_copy(update={"over_random": alone})
    states = saliency.chapter(record.model_copy(update={"deletion": gone, "chosen": "MEL"}), 1).states
    assert states[0].good is False
    assert "the probability of MEL falls by 0.270 more" in states[0].words


def test_what_was_looked_for_with_a_bundle_is_not_said_to_be_left_out(record: Explained) -> None:
    asked = [found.model_copy(update={"unasked": ()}) for found in record.lesions]
    told = saliency.chapter(record.model_copy(update={"lesions": tuple(asked), "bundle": "milk-ov"}), 1)
    assert not any(state.words == UNASKED for state in told.states)
    assert ("images judged by", "the quality gate of milk-ov") in told.tables[-1].rows


def test_explanations_by_another_network_are_refused(
    given: inputs.ReportInput, record: Explained, tmp_path: Path
) -> None:
    other = record.model_copy(update={"checkpoint_sha256": "f" * 64})
    with pytest.raises(
        EdgeskinError, match=r"the explanations are by another network \(milk\): got 'checkpoint f{12}'"
    ):
        html.render(given.model_copy(update={"explained": (other,)}), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command_takes_the_file(record: Explained, tmp_path: Path) -> None:
    file = tmp_path / "explained.json"
    file.write_text(pretty_json(record.to_json()))
    page = chain.report([TINY], [], [], tmp_path / "with.html", explained=[file])
    assert picture(1) in page.read_text()
    bare = chain.report([TINY], [], [], tmp_path / "bare.html", explained=[file], pictures=False).read_text()
    assert "Saliency, milk" in bare
    assert "data:image" not in bare
    file.write_text(pretty_json({**record.to_json(), "format": "edgeskin-verify/1"}))
    with pytest.raises(EdgeskinError, match="explained"):
        chain.report([TINY], [], [], tmp_path / "wrong.html", explained=[file])
