"""Roles train / calibration / control / test: disjoint by patient (else lesion), stratified, seeded, hashed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeskin.data.pairs import Pair, PairSet, Problems
from edgeskin.errors import EdgeskinError
from edgeskin.files import sha256_bytes
from edgeskin.spec.roles import ROLES, Role, RoleRecord, RoleSpec


def short_hash(lesion_id: str) -> str:
    """16 hex digits that stand for a lesion id where the id itself must not travel.

    >>> short_hash("IL_0000652")
    'f51d2520a6f6b26f'
    """
    return sha256_bytes(lesion_id.encode())[:16]


def role_hash(lesion_ids: Iterable[str]) -> str:
    """SHA-256 of the sorted lesion ids, one a line: equal sets give equal hashes, in any order.

    >>> role_hash(["b", "a"]) == role_hash(["a", "b"])
    True
    """
    return sha256_bytes("\n".join(sorted(lesion_ids)).encode())


@dataclass(frozen=True, slots=True)
class Roles:
    """Which pairs have which role."""

    pairs: dict[Role, tuple[Pair, ...]]

    def __getitem__(self, role: Role) -> tuple[Pair, ...]:
        return self.pairs[role]

    def records(self) -> dict[str, RoleRecord]:
        """Count and hash of each role."""
        return {
            role: RoleRecord(lesions=len(pairs), sha256=role_hash(p.lesion_id for p in pairs))
            for role, pairs in self.pairs.items()
        }

    def lesion_hashes(self) -> dict[str, tuple[str, ...]]:
        """Short hashes of each role's lesion ids, sorted."""
        return {role: tuple(sorted(short_hash(p.lesion_id) for p in pairs)) for role, pairs in self.pairs.items()}


def assign(pairset: PairSet, spec: RoleSpec) -> Roles:
    """Give each pair its role. An official split stands; what it lacks is drawn from its `train` (all of a patient).

    Raises:
        EdgeskinError: an official split puts a patient into two roles, or a role came out empty.
    """
    shares: dict[Role, float] = {"calibration": spec.calibration, "control": spec.control, "test": spec.test}
    if any(pair.role for pair in pairset.pairs):
        given: dict[Role, list[Pair]] = {role: [] for role in ROLES}
        for pair in pairset.pairs:
            given[pair.role or "train"].append(pair)
        _refuse_shared_patients(pairset, given)
        lacking = {role: share for role, share in shares.items() if not given[role]}
        enlarge = len(pairset.pairs) / max(1, len(given["train"]))  # shares are of all lesions
        drawn = _draw(
            pairset, given["train"], {r: min(s * enlarge, 0.5 / len(lacking)) for r, s in lacking.items()}, spec.seed
        )
        given.update({role: drawn[role] for role in ("train", *lacking)})
    else:
        given = _draw(pairset, pairset.pairs, shares, spec.seed)
    for role in ROLES:
        if not given[role]:
            raise EdgeskinError(
                "empty role",
                got=f"no lesion for {role!r} out of {len(pairset.pairs)}",
                fix="add lesions or raise that role's fraction",
            )
    return Roles({role: tuple(given[role]) for role in ROLES})


def _refuse_shared_patients(pairset: PairSet, given: dict[Role, list[Pair]]) -> None:
    """Official roles must be disjoint by patient; all offenders are reported together."""
    problems = Problems()
    first: dict[str, tuple[Role, Pair]] = {}
    for role, pairs in given.items():
        for pair in pairs:
            if pair.patient_id is None:
                continue
            other, known = first.setdefault(pair.patient_id, (role, pair))
            if other != role:
                what = f"patient {pair.patient_id!r} is in {role!r} here and in {other!r} in row {known.row}"
                problems.add(pair.row, pair.dermoscopic, what)
    problems.raise_if_any(pairset.root)


def _draw(pairset: PairSet, pairs: Sequence[Pair], shares: dict[Role, float], seed: int) -> dict[Role, list[Pair]]:
    """Seeded, stratified draw of whole groups (a patient's lesions, else one lesion).

    Groups of a stratum are ordered by a keyed hash and dealt along the cumulative shares, so that a lesion's
    place depends on its id and the seed and hardly on which other lesions are there.
    """
    task = pairset.schema.target.task
    groups: dict[tuple[str, bool], list[Pair]] = defaultdict(list)
    for pair in pairs:  # a patient may be called as another one's lesion is
        groups[pair.patient_id or pair.lesion_id, bool(pair.patient_id)].append(pair)
    strata: dict[int, list[tuple[str, bool]]] = defaultdict(list)
    for key, members in groups.items():
        labels = [m.labels.get(task, -1) for m in members]
        totals_of = {label: labels.count(label) for label in set(labels)}
        strata[min(totals_of, key=lambda k: (-totals_of[k], k))].append(key)
    drawn: dict[Role, list[Pair]] = {role: [] for role in ROLES}
    for stratum in sorted(strata):
        keys = sorted(strata[stratum], key=lambda k: sha256_bytes(f"{seed}/{k[0]}".encode()))
        total = sum(len(groups[k]) for k in keys)
        placed = 0
        bounds: list[tuple[float, Role]] = []
        edge = 0.0
        for role, share in shares.items():
            edge += share
            bounds.append((edge, role))
        for key in keys:
            middle = (placed + len(groups[key]) / 2) / total
            role = next((r for bound, r in bounds if middle < bound), "train")
            drawn[role].extend(groups[key])
            placed += len(groups[key])
    return drawn
