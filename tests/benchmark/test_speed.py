"""INT8 against higher precision: real sessions in turn, and the verdict."""

from pathlib import Path

import pytest

from edgeskin import catalog
from edgeskin.backends import get
from edgeskin.benchmark import speed as stage
from edgeskin.benchmark.turns import in_turns
from edgeskin.opening import open_bundle

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"


@pytest.fixture(scope="module")
def files() -> tuple[Path, Path]:
    bundle = open_bundle(TINY)
    return bundle.path(bundle.manifest.graphs["pair"].file), bundle.path(bundle.manifest.reference["pair"].file)


def test_every_session_is_asked_once_a_round_and_each_starts_a_round(files: tuple[Path, Path]) -> None:
    sessions = {path.parent.name: get("onnxruntime").open(path) for path in files}
    asked: list[str] = []
    for name, session in sessions.items():
        plain = session.run
        session.run = lambda frames, n=name, f=plain: (asked.append(n), f(frames))[1]  # type: ignore[method-assign,misc]
    rounds: list[int] = []
    spent = in_turns(sessions, 6, warm_up=2, step=rounds.append)
    assert {name: len(series) for name, series in spent.items()} == {"model": 6, "reference": 6}
    assert all(value > 0 for series in spent.values() for value in series)
    assert rounds == [1] * 8
    first, second = sessions
    assert asked == [first, second, second, first] * 4


def test_the_verdict_follows_the_interval(files: tuple[Path, Path]) -> None:
    recipe = catalog.recipe("onnxruntime-int8")
    found = stage.speed(*files, recipe, threads=1)
    assert set(found.p50_ms) == {"int8, f32", "fp32, f32"}
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert found.int8_is_faster == (found.ratio.high < 1)
    assert found.ratio.value == pytest.approx(found.p50_ms["int8, f32"] / found.p50_ms["fp32, f32"], rel=1e-3)


def test_a_graph_is_not_faster_than_itself(files: tuple[Path, Path]) -> None:
    steps: list[int] = []
    found = stage.speed(files[1], files[1], catalog.recipe("onnxruntime-int8"), threads=1, step=steps.append)
    assert found.ratio.low < 1.5
    assert found.ratio.high > 0.67
    assert bool(found.why) != found.int8_is_faster
    assert sum(steps) <= stage.LONGEST


def test_a_recipe_that_leaves_the_hint_open_is_timed_in_both() -> None:
    assert stage.hints(catalog.recipe("openvino-int8")) == ("f32", "bf16")
    assert stage.hints(catalog.recipe("onnxruntime-int8")) == ("f32",)
