"""One mode of examination at the gate: FP32 and what was built on the same lesions, figure by figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from edgeskin import bootstrap as boot
from edgeskin import decide, metrics
from edgeskin.compared import estimate, point
from edgeskin.data.pairs import UNLABELLED, Pair
from edgeskin.scoring import Deciding, Logits
from edgeskin.spec.gate import GateMetric, GateSpec, Margin
from edgeskin.spec.gated import GateCheck, Verdict
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Estimate

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Both = tuple[Floats, Floats]  # FP32, built

FEWEST = 5  # patients that a figure counts, e.g. those with a melanoma: of fewer an interval says nothing
CHANCE = 0.025  # of what lies at a margin to lie beyond it by a 95 % interval
_TINY = 1e-9  # what floating point may add to a difference


@dataclass(frozen=True)
class Side:
    """Lesions of a mode, what both networks answer, and the bootstrap draws."""

    mode: Mode
    pairs: Sequence[Pair]
    target: str
    classes: int
    limit: float
    weights: Floats  # [1 + draws, lesions]
    patients: Ints  # number of each lesion's patient, or of the lesion where that is unknown
    truth: Ints
    positive: Bools
    probabilities: Both  # [lesions, classes] of the target's task
    score: Both  # P(target)
    inside: tuple[Bools, Bools]  # the predicted class is one of the target's

    @classmethod
    def of(
        cls, deciding: Deciding, mode: Mode, pairs: Sequence[Pair], reference: Logits, core: Logits, repeats: int
    ) -> "Side":
        """From logits [lesions, rows, K], all of them finite."""
        schema = deciding.task_schema
        task, indices = schema.target.task, schema.target_indices()
        truth = np.array([pair.labels.get(task, UNLABELLED) for pair in pairs], np.int64)
        who = np.array([pair.group for pair in pairs], str)
        patients = np.unique(who, return_inverse=True)[1].astype(np.int64)
        answers = [decide.task_probabilities(x, schema, deciding.fusion, mode) for x in (reference, core)]
        before, after = (answer[task] for answer in answers)
        return cls(
            mode=mode,
            pairs=pairs,
            target=schema.target.title,
            classes=len(schema.task(task).classes),
            limit=decide.threshold(deciding.thresholds, mode),
            weights=boot.draws(patients, repeats),
            patients=patients,
            truth=truth,
            positive=np.isin(truth, indices),
            probabilities=(before, after),
            score=(decide.target_probability(answers[0], schema), decide.target_probability(answers[1], schema)),
            inside=(np.isin(before.argmax(-1), indices), np.isin(after.argmax(-1), indices)),
        )

    def checks(self, spec: GateSpec, keep: Bools, group: str) -> list[GateCheck]:
        """Every check of the recipe on the lesions to keep; group "" = all of them."""
        known = keep & (self.truth >= 0)
        weights = np.ascontiguousarray(self.weights[:, known])
        found = [self._metric(metric, margin, weights, keep, group) for metric, margin in spec.margins.items()]
        predicted = [p.argmax(-1) for p in self.probabilities]
        for name, limit, moved in (
            ("class_flips", spec.class_flips, predicted[0] != predicted[1]),
            ("target_flips", spec.target_flips, self.inside[0] != self.inside[1]),
        ):
            if limit is not None:
                found.append(self._flips(name, limit, moved, keep, group))
        return found

    def values(self, column: str, smallest: int) -> tuple[list[str], list[str]]:
        """Values of a metadata column: those of enough labelled lesions, and the others with their number."""
        labelled = [pair.meta.get(column, "") for pair, truth in zip(self.pairs, self.truth, strict=True) if truth >= 0]
        counts = {value: labelled.count(value) for value in sorted({pair.meta.get(column, "") for pair in self.pairs})}
        counts.pop("", None)  # unknown
        small = [f"{column} = {value} ({count})" for value, count in counts.items() if count < smallest]
        return [value for value, count in counts.items() if count >= smallest], small

    def within(self, column: str, value: str) -> Bools:
        """Which lesions have that value."""
        return np.array([pair.meta.get(column, "") == value for pair in self.pairs], bool)

    def power(self, spec: GateSpec) -> list[str]:
        """What so many lesions can show at all, were not one of them to move: the Wilson bound of 0 of n."""
        found = []
        for metric, chosen, word in (
            ("sensitivity", self.positive, "with"),
            ("specificity", (self.truth >= 0) & ~self.positive, "without"),
        ):
            if metric in spec.margins and chosen.any():
                who = self._count(chosen)
                unseen = metrics.wilson_interval(0, who)[1]
                of = f" of {who} patients" if who < chosen.sum() else ""
                lesions = f"{int(chosen.sum())} lesions {word} {self.target}{of}"
                found.append(f"{lesions}: a loss of {metric} below {unseen * 100:.1f} % could go unseen")
        for name, margin in (("class flip", spec.class_flips), ("flip to or from the target", spec.target_flips)):
            if margin is not None and self.pairs and margin.value < 1 / len(self.pairs):
                found.append(f"{len(self.pairs)} lesions: a single {name} is more than its margin of {margin.value:g}")
        return found

    def _count(self, chosen: Bools) -> int:
        return len(np.unique(self.patients[chosen]))

    def _flips(self, name: str, margin: Margin, moved: Bools, keep: Bools, group: str) -> GateCheck:
        flipped, lesions = int((moved & keep).sum()), int(keep.sum())
        verdict: Verdict = "holds"
        share, why = Estimate(reason="no lesion has a clinical image"), ""
        if not lesions:
            verdict, why = "cannot tell", share.reason
        else:
            low, high = (min(1.0, max(0.0, end)) for end in metrics.wilson_interval(flipped, lesions))
            share = Estimate(value=flipped / lesions, low=low, high=high)
            if flipped / lesions > margin.value + _TINY:
                shown = not group or binomial_tail(flipped, lesions, margin.value) < CHANCE  # Wilson's low is too high
                verdict, why = "fails" if shown else "cannot tell", f"{flipped} of {lesions} lesions flip"
        return GateCheck(
            mode=self.mode,
            metric=name,
            group=group,
            lesions=lesions,
            positives=int((keep & self.positive).sum()),
            fp32=Estimate(reason="flips are counted against FP32"),
            bundle=share,
            difference=share,
            margin=margin.value,
            reason=margin.reason,
            verdict=verdict,
            why=why,
        )

    def _metric(self, metric: GateMetric, margin: Margin, weights: Floats, keep: Bools, group: str) -> GateCheck:
        known = keep & (self.truth >= 0)
        lacks, few = self._lacks(metric, keep)
        before, after = (np.array([np.nan]),) * 2 if lacks else self._figures(metric, weights, known)
        difference = estimate(after - before, lacks)
        if difference.low is None:
            verdict, why = _UNKNOWN, lacks or difference.reason
        elif few:
            lost = self._lost(metric, known)
            shown = lost is not None and binomial_tail(*lost, margin.value) < CHANCE
            verdict, why = ("fails", f"{lost[0]} of {lost[1]} are lost") if lost and shown else (_UNKNOWN, few)
        else:
            verdict, why = judge(metric, difference, margin.value, in_group=bool(group))
        own = point if metric == "ece" else Estimate.model_copy
        return GateCheck(
            mode=self.mode,
            metric=metric,
            group=group,
            lesions=int(known.sum()),
            positives=int((known & self.positive).sum()),
            fp32=own(estimate(before, lacks)),
            bundle=own(estimate(after, lacks)),
            difference=difference,
            margin=margin.value,
            reason=margin.reason,
            verdict=verdict,
            why=why,
        )

    def _lacks(self, metric: GateMetric, keep: Bools) -> tuple[str, str]:
        """Why a figure cannot be had at all, and why its interval says nothing; "" where neither is so."""
        known = keep & (self.truth >= 0)
        of = int(known.sum())
        if not self.pairs:
            return "no lesion has a clinical image", ""
        if not of:
            return f"none of {int(keep.sum())} lesions is labelled", ""
        counted = {f"with {self.target}": known & self.positive, f"without {self.target}": known & ~self.positive}
        if metric == "sensitivity":
            counted.popitem()
        elif metric == "specificity":
            del counted[f"with {self.target}"]
        elif metric != "auc":
            counted = {"with a label": known}
            if len(np.unique(self.truth[known])) == 1:
                return f"all {of} lesions are of one class", ""
        for name, chosen in counted.items():
            if not chosen.any():
                return f"no lesion {name} among {of}", ""
        few = {name: self._count(chosen) for name, chosen in counted.items() if self._count(chosen) < FEWEST}
        word = "lesion" if self._count(known) == of else "patient"
        return "", ", ".join(f"only {count} {word}{'s' * (count > 1)} {name}" for name, count in few.items())

    def _figures(self, metric: GateMetric, weights: Floats, known: Bools) -> Both:
        """The metric on every draw, FP32 and built."""
        truth, positive = self.truth[known], self.positive[known]
        rows = []
        for probabilities, score in zip(self.probabilities, self.score, strict=True):
            p, s = probabilities[known], score[known]
            if metric == "auc":
                rows.append(boot.auc(weights, positive, s))
            elif metric == "sensitivity":
                rows.append(boot.sensitivity(weights, positive, s >= self.limit))
            elif metric == "specificity":
                rows.append(boot.specificity(weights, positive, s >= self.limit))
            elif metric == "ece":
                rows.append(boot.expected_calibration_error(weights, p, truth))
            else:
                matrices = boot.confusion(weights, truth, p.argmax(-1), self.classes)
                of = boot.balanced_accuracy if metric == "balanced_accuracy" else boot.macro_f1
                rows.append(of(matrices))
        return rows[0], rows[1]

    def _lost(self, metric: GateMetric, known: Bools) -> tuple[int, int] | None:
        """Patients whose decision became wrong less those where it became right, and of how many; for two figures."""
        if metric not in ("sensitivity", "specificity"):
            return None
        chosen = known & (self.positive if metric == "sensitivity" else ~self.positive)
        before, after = ((s >= self.limit) == self.positive for s in self.score)
        return self._count(chosen & before & ~after) - self._count(chosen & ~before & after), self._count(chosen)


_UNKNOWN: Verdict = "cannot tell"


def judge(metric: str, difference: Estimate, margin: float, *, in_group: bool) -> tuple[Verdict, str]:
    """Verdict on an interval of (built - FP32), and why it does not hold.

    >>> lost = Estimate(value=-0.06, low=-0.15, high=-0.01)
    >>> judge("sensitivity", lost, 0.05, in_group=False)
    ('fails', 'the interval reaches to -0.1500, which is not above -0.05')
    >>> judge("sensitivity", lost, 0.05, in_group=True)
    ('cannot tell', 'the interval lies on both sides of -0.05')
    >>> judge("sensitivity", lost, 0.005, in_group=True)
    ('fails', 'all of the interval lies below -0.005')
    """
    assert difference.low is not None
    assert difference.high is not None
    worst, best, sign = (
        (difference.low, difference.high, -1) if metric != "ece" else (-difference.high, -difference.low, 1)
    )
    limit, side = f"{sign * margin:g}", "below" if sign < 0 else "above"
    if worst > _TINY - margin or worst >= 0:  # with a margin of 0: nothing is worse
        return "holds", ""
    if not in_group:
        return (
            "fails",
            f"the interval reaches to {-sign * worst:.4f}, which is not {'above' if sign < 0 else 'below'} {limit}",
        )
    if best < -margin - _TINY:
        return "fails", f"all of the interval lies {side} {limit}"
    return _UNKNOWN, f"the interval lies on both sides of {limit}"


def binomial_tail(hits: int, of: int, share: float) -> float:
    """P(at least `hits` of `of`) where each has that chance: the exact test of a share (Clopper and Pearson 1934).

    >>> binomial_tail(2, 2, 0.05).__round__(6), binomial_tail(1, 2, 0.05).__round__(4)
    (0.0025, 0.0975)
    """
    return sum(comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(max(0, hits), of + 1))
