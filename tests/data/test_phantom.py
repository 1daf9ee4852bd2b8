"""Phantoms: layout, repeatability, and structures that match their labels."""

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgeskin import decide, out
from edgeskin.data.check import check_images, contact_sheet, summary
from edgeskin.data.phantom import COLUMNS, CRITERIA, MARKER, SHARES, cases, write_phantom
from edgeskin.data.phantom_canvas import View, waves
from edgeskin.data.phantom_draw import draw
from edgeskin.data.registry import load_pairs
from edgeskin.data.roles import assign
from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_file
from edgeskin.spec.roles import ROLES, RoleSpec

N = 120


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    out.configure(quiet=True)
    yield
    out.configure()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(folder, N, seed=4, size=48)
    return folder


def table(root):
    with (root / "meta/meta.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_derm7pt_loader_reads_it(root):
    pairs = load_pairs("derm7pt", root)
    assert pairs.phantom
    assert len(pairs.pairs) == N
    assert [p.lesion_id for p in pairs.pairs if p.clinical is None] == ["8", "108"]
    check_images(pairs)
    roles = assign(pairs, RoleSpec())
    sizes = [len(roles[r]) for r in ROLES]
    assert sum(sizes) == N
    assert abs(sizes[3] / N - 395 / 1011) < 0.05
    assert abs(sizes[2] / N - 203 / 1011) < 0.05
    for role in ("train", "control", "test"):
        assert {p.labels["DIAG"] for p in roles[role]} == set(range(5))
    found = summary(pairs, roles)
    assert found["image_sizes"] == {"dermoscopic": {"48x48": N}, "clinical": {"48x48": N - 2}}
    assert found["missing_clinical"] == 2
    assert sum(found["roles"][r]["classes"]["DIAG"]["MEL"] for r in ROLES) == round(N * SHARES["MEL"])


def test_the_table_has_the_released_columns_and_a_right_score(root):
    rows = table(root)
    assert tuple(rows[0]) == COLUMNS
    assert len(COLUMNS) == 19
    pairs = load_pairs("derm7pt", root)
    assert [decide.points(p.labels, pairs.schema) for p in pairs.pairs] == [int(r["seven_point_score"]) for r in rows]
    assert {r["clinic"] == r["derm"] for r in rows} == {True, False}
    assert len({r["derm"].rsplit(".")[-1] for r in rows}) == 2  # mixed case
    assert "drawn by a program" in (root / MARKER).read_text()


def test_equal_seeds_give_equal_bytes_and_others_do_not(root, tmp_path):
    write_phantom(tmp_path / "again", N, seed=4, size=48)
    write_phantom(tmp_path / "other", N, seed=5, size=48)
    names = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    assert len(names) == 2 * N - 2 + 4 + 1
    assert [sha256_file(root / n) for n in names] == [sha256_file(tmp_path / "again" / n) for n in names]
    images = [n for n in names if n.suffix.lower() == ".jpg"]
    assert not any(sha256_file(root / n) == sha256_file(tmp_path / "other" / n) for n in images)


def test_every_pair_is_itself(root):
    images = [sha256_file(p) for p in (root / "images").rglob("*.*")]
    assert len(set(images)) == len(images) == 2 * N - 2


def test_it_replaces_a_phantom_and_nothing_else(tmp_path):
    write_phantom(tmp_path / "p", 10, size=32)
    write_phantom(tmp_path / "p", 12, size=32)
    assert len(load_pairs("derm7pt", tmp_path / "p").pairs) == 12
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    with pytest.raises(EdgeskinError, match=r"the folder holds something else"):
        write_phantom(tmp_path / "mine", 10)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(EdgeskinError, match=r"the disk is full"):
        write_phantom(tmp_path / "p", 10, size=32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n", "size"), [(9, 160), (100_001, 160), (10, 31), (10, 1025)])
def test_wrong_numbers(tmp_path, n, size):
    with pytest.raises(EdgeskinError, match=r"wrong (number of pairs|image size)"):
        write_phantom(tmp_path / "p", n, size=size)


# -- structures and labels -------------------------------------------------------------------------------------


def with_value(column, value, count=12, **change):
    """Lesions that differ in one criterion alone: pairs of (value, absent) dermoscopic and clinical images."""
    for case in cases(40, seed=8)[:count]:
        latent = replace(case.latent, **change)
        one = replace(latent, criteria=latent.criteria | {column: value})
        other = replace(latent, criteria=latent.criteria | {column: "absent"})
        yield draw(one, 96), draw(other, 96)


def difference(column, value, **change):
    """Changes of the dermoscopic and the clinical image by a structure: signed RGB where it is drawn; its area."""
    for present, absent in with_value(column, value, **change):
        deltas = [p.astype(int) - a.astype(int) for p, a in zip(present, absent, strict=True)]
        yield deltas[1], deltas[0]


def where(delta):
    return np.abs(delta).max(-1) > 8


def test_a_veil_is_bluer_in_both_views_and_stronger_under_the_dermoscope():
    blue = []
    for derm, clinical in difference("blue_whitish_veil", "present"):
        for view in (derm, clinical):
            drawn = view[where(view)]
            assert len(drawn) > 20
            assert (drawn[:, 2] - drawn[:, 0]).mean() > 8
        blue.append(
            (
                (derm[..., 2] - derm[..., 0])[where(derm)].mean(),
                (clinical[..., 2] - clinical[..., 0])[where(clinical)].mean(),
            )
        )
    derm, clinical = np.mean(blue, axis=0)
    assert derm > 1.5 * clinical


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("pigment_network", "typical"),
        ("pigment_network", "atypical"),
        ("streaks", "regular"),
        ("streaks", "irregular"),
        ("dots_and_globules", "regular"),
        ("dots_and_globules", "irregular"),
        *(("vascular_structures", v) for kind in CRITERIA["vascular_structures"][0][1:] for v in kind),
    ],
)
def test_fine_structures_are_seen_by_the_dermoscope_alone(column, value):
    for derm, clinical in difference(column, value, criteria=plain()):
        assert where(derm).sum() > 15
        assert not clinical.any()


def plain():
    """A lesion without criteria but even pigment."""
    return dict.fromkeys(CRITERIA, "absent") | {"pigmentation": "diffuse regular"}


def test_vessels_are_redder_and_networks_darker():
    for derm, _ in difference("vascular_structures", "arborizing", criteria=plain()):
        drawn = derm[where(derm)]
        assert (drawn[:, 0] - drawn[:, 1]).mean() > 10
    for derm, _ in difference("pigment_network", "atypical", criteria=plain()):
        assert derm[where(derm)].mean() < -10


def test_regression_is_paler_when_white_and_greyer_when_blue():
    for derm, _ in difference("regression_structures", "white areas", criteria=plain()):
        assert derm[where(derm)].mean() > 10
    for derm, _ in difference("regression_structures", "blue areas", criteria=plain()):
        assert (derm[..., 2] - derm[..., 0])[where(derm)].mean() > 5


def test_irregular_pigmentation_is_dark_patches_in_both_views():
    for derm, clinical in difference("pigmentation", "localized irregular", criteria=plain(), group="SK"):
        for view in (derm, clinical):
            assert view[where(view)].mean() < -8
            assert (np.abs(view).max(-1) > 40).any()


def test_elevation_sun_and_size_are_seen_by_the_camera_alone():
    case = cases(10)[0].latent
    flat = draw(replace(case, elevation="flat", sun=0.0, diameter=0.3), 96)
    other = draw(replace(case, elevation="nodular", sun=0.9, diameter=0.6), 96)
    assert np.array_equal(flat[1], other[1])
    assert np.abs(flat[0].astype(int) - other[0]).mean() > 3


def test_both_views_show_one_lesion():
    """The lesion's own colour in one view says what it is in the other."""
    views = [draw(replace(c.latent, tone=0.2, sun=0.0, elevation="flat"), 96) for c in cases(60, seed=2)]
    middle = np.array([[v[40:56, 40:56].mean() for v in pair] for pair in views])
    assert np.corrcoef(middle.T)[0, 1] > 0.6


def test_waves_equal_the_sum_they_stand_for():
    view = View(40, 11.0, 0.7, (21.0, 17.0), np.ones(720))
    field = waves(np.random.default_rng(3), view.u, view.v, 2.0)
    expected = np.zeros_like(view.u, dtype=float)
    for turn, phase, pitch in np.random.default_rng(3).uniform((0, 0, 0.6), (2 * np.pi, 2 * np.pi, 1.4), (5, 3)):
        expected += np.sin(2.0 * pitch * (np.cos(turn) * view.u + np.sin(turn) * view.v) + phase)
    assert np.allclose(field, expected / 2.5, atol=1e-5)


# -- the tables ------------------------------------------------------------------------------------------------


def test_shares_are_met_and_raw_values_are_known():
    drawn = cases(1000, seed=1)
    counts = Counter(c.latent.group for c in drawn)
    assert counts == {g: round(1000 * s) for g, s in SHARES.items()}
    for column, (kinds, odds) in CRITERIA.items():
        assert {c.latent.criteria[column] for c in drawn} == {v for kind in kinds for v in kind}
        assert all(len(row) == len(kinds) and sum(row) == 100 for row in odds.values())
        assert set(odds) == set(SHARES)


def auc(scores, positive):
    order = np.argsort(np.argsort(scores)) + 1.0
    n = positive.sum()
    return (order[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum())


def test_the_best_possible_reading_of_the_criteria_is_good_and_not_perfect():
    """Bayes' rule with the tables themselves: nobody who sees the criteria alone can do better."""
    drawn = cases(4000, seed=6)
    positive = np.array([c.latent.group == "MEL" for c in drawn])
    logs = np.zeros((len(drawn), len(SHARES)))
    for j, (group, share) in enumerate(SHARES.items()):
        logs[:, j] = np.log(share)
        for column, (kinds, odds) in CRITERIA.items():
            kind = [next(k for k, values in enumerate(kinds) if c.latent.criteria[column] in values) for c in drawn]
            logs[:, j] += np.log(np.asarray(odds[group]) / 100)[kind]
    likely = np.exp(logs - logs.max(axis=1, keepdims=True))
    chance = (likely / likely.sum(axis=1, keepdims=True))[:, list(SHARES).index("MEL")]
    assert 0.94 < auc(chance, positive) < 0.985
    scores = np.array([c.score for c in drawn])
    assert 0.8 < (scores >= 3)[positive].mean() < 0.97
    assert 0.75 < (scores < 3)[~positive].mean() < 0.95


def test_the_contact_sheet(root, tmp_path):
    path = tmp_path / "deep/sheet.png"
    contact_sheet(load_pairs("derm7pt", root), path, rows=2, columns=4, size=48)
    with Image.open(path) as sheet:
        assert sheet.size == (4 * 106, 2 * 88)
        pixels = np.asarray(sheet)
    assert (pixels[88 : 88 + 48, 318 : 318 + 48] == 255).all()  # case 8 has no clinical image
    assert (pixels[88 : 88 + 48, 318 + 48 : 318 + 96] < 250).any()
