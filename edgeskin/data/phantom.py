"""A phantom data set: drawn pairs in Derm7pt's released layout, so that Derm7pt's loader reads it.

A lesion is drawn in three steps: a diagnosis group from fixed shares; the seven criteria, shape, size, elevation
and site from tables given the group; two views from that one lesion (edgeskin.data.phantom_draw). The tables
overlap, so the best possible classifier errs too. It stands in for real lesions in demonstrations and tests and
says nothing about them: a file PHANTOM in the root marks it, and every report made on it says so.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgeskin import out as output
from edgeskin.data.phantom_canvas import Latent
from edgeskin.data.phantom_draw import draw
from edgeskin.errors import EdgeskinError
from edgeskin.files import staged_dir

MARKER = "PHANTOM"
COLUMNS = (
    "case_num", "diagnosis", "seven_point_score", "pigment_network", "streaks", "pigmentation",
    "regression_structures", "dots_and_globules", "blue_whitish_veil", "vascular_structures",
    "level_of_diagnostic_difficulty", "elevation", "location", "sex", "management", "clinic", "derm", "case_id",
    "notes",
)  # fmt: skip
SPLITS = {"train": 413, "valid": 203, "test": 395}  # cases of the released data set; a phantom keeps the shares
SHARES = {"NEV": 0.42, "MEL": 0.28, "BCC": 0.10, "MISC": 0.10, "SK": 0.10}

_DIAGNOSES = {
    "BCC": ("basal cell carcinoma",),
    "NEV": ("clark nevus", "clark nevus", "clark nevus", "reed or spitz nevus", "blue nevus", "combined nevus",
            "congenital nevus", "dermal nevus", "recurrent nevus"),
    "MEL": ("melanoma (in situ)", "melanoma (less than 0.76 mm)", "melanoma (0.76 to 1.5 mm)",
            "melanoma (more than 1.5 mm)", "melanoma metastasis"),
    "MISC": ("dermatofibroma", "lentigo", "melanosis", "miscellaneous", "vascular lesion"),
    "SK": ("seborrheic keratosis",),
}  # fmt: skip
# column -> the raw values of each kind (absent, regular, irregular) and, by group, the odds of each kind.
_Row = dict[str, tuple[float, ...]]
CRITERIA: dict[str, tuple[tuple[tuple[str, ...], ...], _Row]] = {
    "pigment_network": (
        (("absent",), ("typical",), ("atypical",)),
        {"BCC": (94, 4, 2), "NEV": (27, 58, 15), "MEL": (32, 13, 55), "MISC": (60, 34, 6), "SK": (86, 9, 5)},
    ),
    "streaks": (
        (("absent",), ("regular",), ("irregular",)),
        {"BCC": (93, 3, 4), "NEV": (74, 16, 10), "MEL": (42, 6, 52), "MISC": (93, 4, 3), "SK": (90, 5, 5)},
    ),
    "pigmentation": (
        (("absent",), ("diffuse regular", "localized regular"), ("diffuse irregular", "localized irregular")),
        {"BCC": (72, 8, 20), "NEV": (48, 36, 16), "MEL": (24, 12, 64), "MISC": (72, 20, 8), "SK": (60, 16, 24)},
    ),
    "regression_structures": (
        (("absent",), ("blue areas", "white areas", "combinations")),
        {"BCC": (82, 18), "NEV": (87, 13), "MEL": (50, 50), "MISC": (88, 12), "SK": (88, 12)},
    ),
    "dots_and_globules": (
        (("absent",), ("regular",), ("irregular",)),
        {"BCC": (68, 8, 24), "NEV": (22, 51, 27), "MEL": (16, 12, 72), "MISC": (68, 20, 12), "SK": (48, 20, 32)},
    ),
    "blue_whitish_veil": (
        (("absent",), ("present",)),
        {"BCC": (88, 12), "NEV": (92, 8), "MEL": (48, 52), "MISC": (96, 4), "SK": (90, 10)},
    ),
    "vascular_structures": (
        (
            ("absent",),
            ("arborizing", "comma", "hairpin", "within regression", "wreath"),
            ("dotted", "linear irregular"),
        ),
        {"BCC": (26, 70, 4), "NEV": (84, 11, 5), "MEL": (72, 10, 18), "MISC": (84, 9, 7), "SK": (74, 22, 4)},
    ),
}
# Points of a value by its kind: the last kind of a major criterion scores 2, of a minor one 1.
_POINTS = {"pigment_network": 2, "blue_whitish_veil": 2, "vascular_structures": 2}
_ATYPIA = {"BCC": (2.5, 3.5), "NEV": (2.0, 5.0), "MEL": (4.0, 2.5), "MISC": (2.0, 4.5), "SK": (2.5, 3.5)}
_ELEVATION = {"BCC": (15, 45, 40), "NEV": (62, 28, 10), "MEL": (42, 34, 24), "MISC": (45, 40, 15), "SK": (12, 63, 25)}
_SUN = {"BCC": 0.55, "NEV": 0.2, "MEL": 0.42, "MISC": 0.3, "SK": 0.45}
_DIAMETER = {"BCC": 0.40, "NEV": 0.35, "MEL": 0.50, "MISC": 0.36, "SK": 0.45}
_LOCATIONS = (
    "back",
    "lower limbs",
    "abdomen",
    "upper limbs",
    "chest",
    "head neck",
    "acral",
    "buttocks",
    "genital areas",
)
_NOTE = """Phantom data: every image here was drawn by a program (edgeskin data phantom).
No patient, no lesion, no diagnosis. Results on it say nothing about skin lesions.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the phantom's table and the lesion behind it."""

    latent: Latent
    diagnosis: str
    sex: str
    difficulty: str

    @property
    def score(self) -> int:
        """Seven-point score of the criteria as drawn."""
        found = 0
        for column, (kinds, _) in CRITERIA.items():
            if self.latent.criteria[column] in kinds[-1]:
                found += _POINTS.get(column, 1)
        return found


def cases(n: int, seed: int = 0) -> list[Case]:
    """The first step: `n` lesions without pixels. Group shares are met as closely as whole numbers allow.

    >>> [c.latent.group for c in cases(10, seed=1)].count("NEV")
    4
    """
    names = list(SHARES)
    edges = np.cumsum(list(SHARES.values()))
    order = np.searchsorted(edges, (np.arange(n) + 0.5) / n)
    np.random.default_rng([seed, 0]).shuffle(order)
    return [_case(names[min(int(k), len(names) - 1)], seed, i) for i, k in enumerate(order)]


def _case(group: str, seed: int, number: int) -> Case:
    rng = np.random.default_rng([seed, 1, number])
    criteria = {}
    for column, (kinds, odds) in CRITERIA.items():
        weights = np.asarray(odds[group]) / sum(odds[group])
        values = kinds[int(rng.choice(len(kinds), p=weights))]
        criteria[column] = str(rng.choice(values))
    heights = np.asarray(_ELEVATION[group]) / 100
    latent = Latent(
        key=(seed, 2, number),
        group=group,
        criteria=criteria,
        elevation=str(rng.choice(("flat", "palpable", "nodular"), p=heights)),
        location=str(rng.choice(_LOCATIONS)),
        atypia=float(rng.beta(*_ATYPIA[group])),
        diameter=float(np.clip(_DIAMETER[group] * rng.lognormal(0, 0.22), 0.2, 0.75)),
        tone=float(rng.beta(1.6, 3.5)),
        sun=float(np.clip(rng.normal(_SUN[group], 0.22), 0, 1)),
    )
    sex, difficulty = str(rng.choice(("female", "male"))), str(rng.choice(("low", "medium", "high"), p=(0.4, 0.4, 0.2)))
    return Case(latent, str(rng.choice(_DIAGNOSES[group])), sex, difficulty)


def write_phantom(out: Path, n: int, seed: int = 0, size: int = 160) -> None:
    """Draw `n` pairs of `size` x `size` pixels into `out`, in Derm7pt's released layout. Equal seeds, equal bytes.

    About one case in a hundred names its dermoscopic image as the clinical one (clinical image missing), some
    file names differ in case from the table, as in the released data set.

    Raises:
        EdgeskinError: n or size out of range, `out` holds something that is no phantom, or the disk refuses.
    """
    if not 10 <= n <= 100_000:
        raise EdgeskinError("wrong number of pairs", got=n, possible="10 .. 100000", fix="pass --n 600")
    if not 32 <= size <= 1024:
        raise EdgeskinError("wrong image size", got=size, possible="32 .. 1024 pixels", fix="pass --size 160")
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise EdgeskinError("the folder holds something else", got=str(out), fix="choose a new --out")
    drawn = cases(n, seed)
    with staged_dir(out) as stage:
        (stage / MARKER).write_text(_NOTE, encoding="utf-8")
        rows = [_row(case, number) for number, case in enumerate(drawn)]
        for folder in {Path(str(row["derm"])).parent for row in rows}:
            (stage / "images" / folder).mkdir(parents=True)
        with output.progress("drawing pairs", n) as step, ThreadPoolExecutor(2) as pool:
            jobs = pool.map(_write_pair, drawn, rows, [stage / "images"] * n, [size] * n)
            for _ in jobs:
                step()
        for number, row in enumerate(rows):
            if number % 25 == 24:  # the table and the disk disagree on case, as in the released data set
                row["derm"] = str(row["derm"]).replace(".jpg", ".JPG")
        (stage / "meta").mkdir()
        _write_csv(stage / "meta" / "meta.csv", COLUMNS, ([row[c] for c in COLUMNS] for row in rows))
        for name, chosen in _split(drawn, seed).items():
            _write_csv(stage / "meta" / f"{name}_indexes.csv", ("indexes",), ([i] for i in chosen))


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def _row(case: Case, number: int) -> dict[str, object]:
    folder = ("PHA", "PHB", "PHC")[number % 3]
    derm = f"{folder}/{folder.capitalize()}{2 * number + 2:05d}.jpg"
    clinic = f"{folder}/{folder}{2 * number + 1:05d}.JPG"
    missing = number % 100 == 7
    return {
        "case_num": number + 1,
        "diagnosis": case.diagnosis,
        "seven_point_score": case.score,
        **case.latent.criteria,
        "level_of_diagnostic_difficulty": case.difficulty,
        "elevation": case.latent.elevation,
        "location": case.latent.location,
        "sex": case.sex,
        "management": "excision" if case.score >= 3 else "no further examination",
        "clinic": derm if missing else clinic,
        "derm": derm,
        "case_id": "",
        "notes": "clinical image missing" if missing else "",
    }


def _write_pair(case: Case, row: dict[str, object], images: Path, size: int) -> None:
    clinical, dermoscopic = draw(case.latent, size)
    views = {str(row["clinic"]): clinical, str(row["derm"]): dermoscopic}  # one file where the names are equal
    for name, pixels in views.items():
        Image.fromarray(pixels).save(images / name, format="JPEG", quality=92, subsampling=0)


def _split(drawn: list[Case], seed: int) -> dict[str, list[int]]:
    """Row positions of train / valid / test: dealt group by group, in the shares of the released data set."""
    rng = np.random.default_rng([seed, 3])
    by_group = [[i for i, case in enumerate(drawn) if case.latent.group == g] for g in SHARES]
    dealt = [int(i) for group in by_group for i in rng.permutation(np.asarray(group, int))]
    # Spread over the groups: position k of the grouped list goes where the golden ratio's multiples fall.
    places = (np.arange(len(dealt)) * 0.6180339887498949 + rng.random()) % 1
    edges = np.cumsum(list(SPLITS.values())) / sum(SPLITS.values())
    kinds = np.searchsorted(edges[:-1], places, side="right")
    return {name: sorted(i for i, k in zip(dealt, kinds, strict=True) if k == j) for j, name in enumerate(SPLITS)}
