"""The non-inferiority gate: FP32 beside what was built, on the same lesions, against the margins of the recipe.

Overall, every check must hold: then no correction for their number is due, as the chance that all hold wrongly is at
most that of one (intersection-union, Berger 1982). Of sub-groups one that is *shown* to be worse is enough to fail;
that is not corrected either, which errs towards refusing, and the notes say how many were compared.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from edgeskin import scoring
from edgeskin.data.pairs import Pair
from edgeskin.data.roles import role_hash, short_hash
from edgeskin.errors import EdgeskinError
from edgeskin.quantize.side import CHANCE, Side
from edgeskin.scoring import Deciding, Logits
from edgeskin.spec.gate import GateSpec
from edgeskin.spec.gated import GateCheck, GateResult
from edgeskin.spec.manifest import MODES, Mode
from edgeskin.spec.result import Parity


def gate(
    deciding: Deciding,
    spec: GateSpec,
    cases: Sequence[Pair],
    reference: Mapping[Mode, Logits],
    core: Mapping[Mode, Logits],
    role: str,
) -> GateResult:
    """Hold what was built against FP32 on the same lesions, overall and in sub-groups.

    A metric holds where its 95 % interval of (built - FP32) ends above -margin; "ece", an error, below +margin. The
    intervals are percentiles of `spec.bootstrap` draws of whole patients, the same draws for both (scoring.accuracy).
    An interval of [0, 0], as no lesion moved, holds; a note says what so many lesions could have shown at all.

    Of "ece" the difference alone has an interval, and its upper end is a bound only near FP32: in simulations with 377
    lesions it held 99 to 100 % of the true rises up to 0.016, but of a network that is nearly calibrated 61 % of a rise
    of 0.047. At a true rise of 0.06 and a margin of that the check holds in 5 to 78 % of the samples, most often where
    FP32 is calibrated best. So it stops a gross loss of calibration; it does not prove that there is none.

    Flips hold where their share on these lesions is within the margin. The share itself is asked, not the upper end
    of its Wilson interval: a margin of 0.4 % would need 957 lesions without a single flip, and whether flips do harm is
    what the metrics prove. The interval is recorded beside it.

    "cannot tell" overall (no melanoma, one class, no label, fewer than five patients with what the figure counts) does
    not pass. A sub-group fails where it is shown to be worse: the other end of the interval lies beyond the margin too;
    where fewer than five patients count, a binomial test has to show it, for sensitivity and specificity.

    FP32's operating point is commonly chosen on role control: there it is at its best, which is in FP32's favour.

    Args:
        cases: labelled under the schema; a lesion without a clinical image is left out of mode "pair".
        reference, core: mode -> logits [lesions, rows, K] in the order of `cases`, for the modes to compare.

    Raises:
        EdgeskinError: no lesion, one twice, or logits that are not finite.

    One of 20 melanomas is lost, and with it 5 % of the sensitivity:

    >>> from pathlib import Path
    >>> from edgeskin.spec.gate import Margin
    >>> from edgeskin.spec.manifest import Manifest
    >>> from edgeskin.spec.schema import ClassSpec, Schema, Target, Task
    >>> from edgeskin.spec.train import Fusion, Threshold, Thresholds
    >>> task = Task(name="DIAG", classes=(ClassSpec(name="NEV"), ClassSpec(name="MEL")))
    >>> half = Threshold(value=0.5, rule="a half")
    >>> deciding = Manifest.model_construct(
    ...     task_schema=Schema(name="two", tasks=(task,), target=Target(task="DIAG", positive=("MEL",))),
    ...     fusion={"DIAG": Fusion(dermoscopic_weight=0.5)},
    ...     thresholds=Thresholds(pair=half, dermoscopic=half),
    ... )
    >>> cases = [Pair(f"lesion {i}", Path("d.jpg"), None, {"DIAG": int(i < 20)}, row=i) for i in range(60)]
    >>> fp32 = np.array([[[0, 2 if i < 20 else -2]] for i in range(60)], np.float32)
    >>> int8 = fp32.copy()
    >>> int8[0] = 0, -2
    >>> spec = GateSpec(margins={"sensitivity": Margin(value=0.05, reason="one in twenty")})
    >>> found = gate(deciding, spec, cases, {"dermoscopic": fp32}, {"dermoscopic": int8}, role="control")
    >>> [line(check) for check in found.checks]
    ['dermoscopic: sensitivity -0.0500 [-0.1667, 0.0000], margin 0.05, 20 of 60 lesions with melanoma: fails']
    >>> found.checks[0].why
    'the interval reaches to -0.1667, which is not above -0.05'
    >>> gate(deciding, spec, cases, {"dermoscopic": fp32}, {"dermoscopic": fp32}, role="control").notes[1:]
    ('20 lesions with melanoma: a loss of sensitivity below 16.1 % could go unseen',)
    """
    _check(deciding, cases, reference, core)
    order = sorted(range(len(cases)), key=lambda i: cases[i].lesion_id)  # sums then round alike in any order
    checks: list[GateCheck] = []
    parity: dict[Mode, Parity] = {}
    notes: list[str] = []
    compared = 0
    for mode in MODES:
        if mode not in core:
            notes.append(f"mode {mode} was not compared")
            continue
        use = [i for i in order if mode != "pair" or cases[i].clinical is not None]
        before, after = reference[mode][use], core[mode][use]
        side = Side.of(deciding, mode, [cases[i] for i in use], before, after, spec.bootstrap)
        if use:
            ids = [short_hash(cases[i].lesion_id) for i in use]
            parity[mode] = scoring.parity(deciding, mode, ids, before, after)
        checks += side.checks(spec, np.ones(len(use), bool), "")
        notes += side.power(spec)
        for column in spec.groups:
            values, small = side.values(column, spec.smallest_group)
            if small:
                notes.append(f"below {spec.smallest_group} lesions, so not compared: {', '.join(small)}")
            elif not values and use:
                notes.append(f"no lesion has metadata {column!r}")
            for value in values:
                found = side.checks(spec, side.within(column, value), f"{column} = {value}")
                compared += len(found)
                checks += found
    if compared:
        notes.append(
            f"{compared} comparisons in sub-groups, not corrected for their number: if all lay at their margin, chance "
            f"would call {compared * CHANCE:.1f} of them worse"
        )
    return GateResult(
        passed=not failing(checks),
        role=role,
        role_sha256=role_hash(case.lesion_id for case in cases),
        lesions=len(cases),
        target=deciding.task_schema.target.title,
        bootstrap=spec.bootstrap,
        checks=tuple(checks),
        parity=parity,
        notes=tuple(dict.fromkeys(notes)),  # both modes say the same where they have the same lesions
    )


def failing(checks: Sequence[GateCheck]) -> list[GateCheck]:
    """What keeps the gate shut: overall whatever does not hold, of sub-groups what fails."""
    return [c for c in checks if c.verdict == "fails" or (not c.group and c.verdict != "holds")]


def line(check: GateCheck, target: str = "melanoma") -> str:
    """One check as a line of text."""
    named = f"{check.mode}: " + (f"{check.group}: " if check.group else "") + check.metric.replace("_", " ")
    found, count = check.difference, f"{check.positives} of {check.lesions} lesions with {target}"
    told = "undefined" if found.value is None else f"{found.value:+.4f}"
    if found.low is not None and found.high is not None:
        told += f" [{found.low:.4f}, {found.high:.4f}]"
    return f"{named} {told}, margin {check.margin:g}, {count}: {check.verdict}"


def refuse(result: GateResult) -> None:
    """Raise EdgeskinError, with a line for each check that stands against it, unless the gate passed."""
    against = failing(result.checks)
    if result.passed:
        return
    first = min(against, key=lambda c: (c.verdict != "fails", bool(c.group)))  # stable: the first of the gravest
    more = f" (and {len(against) - 1} more)" if against[1:] else ""
    told = f"{line(first, result.target)} ({first.why})"
    raise EdgeskinError(
        f"the build is not shown to be as good as FP32 on role {result.role}{more}",
        got=told,
        possible="an interval within the margin",
        fix="--budget 30m to search, --qat, or --allow-ungated",
        details=[f"{line(c, result.target)} ({c.why})" for c in against],
    )


def summary(result: GateResult) -> str:
    """The result as one sentence."""
    overall = [c for c in result.checks if not c.group]
    groups = [c for c in result.checks if c.group]
    on = f"on {result.lesions} lesions of role {result.role}"
    held = f"{sum(c.verdict == 'holds' for c in overall)} of {len(overall)} checks hold"
    counts = {verdict: sum(c.verdict == verdict for c in groups) for verdict in ("holds", "fails", "cannot tell")}
    inside = "; in sub-groups: " + ", ".join(f"{verdict} {n}" for verdict, n in counts.items() if n)
    told = f"{held} {on}{inside if groups else ''}"
    against = failing(result.checks)
    return told if result.passed else f"not passed: {told}; {line(against[0], result.target)}"


def _check(
    deciding: Deciding, cases: Sequence[Pair], reference: Mapping[Mode, Logits], core: Mapping[Mode, Logits]
) -> None:
    if not cases:
        raise EdgeskinError("empty role", got="no lesion to compare on", fix="enlarge the control role")
    ids = [case.lesion_id for case in cases]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise EdgeskinError("a lesion is there twice", got=short_hash(twice), fix="give each lesion once")
    if set(reference) != set(core) or not core:
        raise ValueError(f"modes differ: {sorted(reference)} and {sorted(core)}")
    for name, given in (("FP32", reference), ("the build", core)):
        for mode, logits in given.items():
            wanted = (len(cases), reference[mode].shape[1], deciding.task_schema.logits)
            if logits.shape != wanted or wanted[1] not in ((2, 3) if mode == "pair" else (1,)):
                raise ValueError(f"logits of {name} in mode {mode} are {logits.shape}, not {wanted}")
            asked = np.array([mode != "pair" or case.clinical is not None for case in cases])
            bad = asked & ~np.isfinite(logits).all((1, 2))
            if bad.any():
                first = short_hash(ids[int(bad.argmax())])
                raise EdgeskinError(
                    f"{name} answers with numbers that are not finite",
                    got=f"{int(bad.sum())} of {int(asked.sum())} lesions in mode {mode}, first {first}",
                    possible="finite logits",
                    fix="keep the layers that overflow in floating point (keep_fp32), or export FP32",
                )
