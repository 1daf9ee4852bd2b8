"""What README.md says of saliency are the figures of the records, and of nothing else."""

import json
import re
from pathlib import Path

import pytest

from edgeskin.report.text import estimate
from edgeskin.spec.explanation import METHOD, Deletion, Explained, Randomised

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def record(end: str) -> tuple[Explained, Deletion, Randomised]:
    path = RESULTS / f"milk10k-explained{end}.json"
    told = Explained.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
    assert told.deletion is not None
    assert told.randomised is not None
    return told, told.deletion, told.randomised


@pytest.fixture(scope="module")
def section() -> str:
    """The chapter on saliency as one line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("### Where the evidence lies")[2]
    return " ".join(text.partition("\n`edgeskin report`")[0].split())


def sentences() -> list[str]:
    _, test, random = record("")
    _, chosen, _ = record("-control")
    _, plain, _ = record("-control-gradcam")
    return [
        f"On {test.lesions} test lesions of MILK10k (EfficientNet-Lite0, 224 px) a probability of "
        f"{test.probability:.2f} falls by {estimate(test.salient, digits=2)}, against "
        f"{estimate(test.random, digits=2)} with random patches and {estimate(test.middle, digits=2)} with the disc; "
        f"the rank correlation with maps of random networks is {estimate(random.correlation, digits=2)}.",
        f"on {chosen.lesions} lesions of the control role the fall is {estimate(chosen.salient, digits=2)}, with plain "
        f"Grad-CAM at the last stage (`--method gradcam` with `--stage -1`) {estimate(plain.salient, digits=2)}, with "
        f"the disc {estimate(chosen.middle, digits=2)}.",
    ]


def test_the_figures_are_those_of_the_records(section: str) -> None:
    for sentence in sentences():
        assert sentence in section
        section = section.replace(sentence, "")
    assert not re.findall(r"\d\.\d", section)  # no figure without a record


def test_the_default_was_chosen_where_it_does_not_flatter() -> None:
    told = {end: record(end) for end in ("", "-control", "-control-gradcam")}
    assert [one.role for one, _, _ in told.values()] == ["test", "control", "control"]
    assert [(one.method, one.stage) for one, _, _ in told.values()] == [
        (METHOD, "blocks.4"),
        (METHOD, "blocks.4"),
        ("gradcam", "blocks.6"),
    ]
    assert len({one.checkpoint_sha256 for one, _, _ in told.values()}) == 1
    chosen, plain = told["-control"][1], told["-control-gradcam"][1]
    assert chosen.salient.low is not None
    assert plain.salient.high is not None
    assert chosen.salient.low > plain.salient.high
