"""Logits of many runs -> figures of each variant with intervals, and paired differences that answer the questions.

How an interval comes about: lesions of the test role are drawn with replacement (all lesions of a patient together,
where patients are known), the same draws for every run of the sweep. On each draw the figure is worked out for each
seed and averaged over the seeds; the interval holds the middle 95 % of these averages. A difference of two variants
is taken draw by draw. The interval therefore tells how much hangs on these lesions. How much hangs on the seeds is
told beside it: what each seed gave, their standard deviation, and a wider interval that holds both, by which claims
are judged.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeskin import bootstrap as boot
from edgeskin import decide
from edgeskin.errors import EdgeskinError, unknown
from edgeskin.spec.result import Estimate
from edgeskin.spec.schema import Schema, Target
from edgeskin.spec.sweep import Metric, Question, Reading, SweepSpec
from edgeskin.spec.sweep_result import Answer, Figure, ReadingResult, VariantResult
from edgeskin.sweeping.answers import Answers
from edgeskin.sweeping.verdict import decide_on, widened

Floats = NDArray[np.float64]
Rows = dict[Metric, Floats]  # metric -> [1 + draws], see `bootstrap.draws`
Found = Mapping[int, Answers]  # seed -> what its run answered
METHOD = (
    "Mean over the seeds. 95 % interval: lesions of the test role drawn with replacement (a patient's together), the "
    "same draws for every run; on each draw the figure of every seed, then their mean; the middle 95 % of the means. "
    "Differences draw by draw. Macro-F1 and balanced accuracy average over the classes that a draw holds. These "
    "intervals do not hold what hangs on the seeds, whose standard deviation stands behind ±. The interval with the "
    "seeds does, and a claim is judged by it: either arm is t sqrt(b² + s²/n), b the arm over lesions / 1.96, s the "
    "standard deviation of the n common seeds, t Student's quantile at Satterthwaite's degrees of freedom. A claim "
    "holds if that interval lies above its bound, and does not hold if it lies below; else it is undecided at this "
    "size. Half its width is the difference that these runs resolve. One common seed gives no verdict. Simulated with "
    "a difference at the bound, a claim held in 0.5 to 3.9 % of sweeps with three seeds and in 0.4 to 6.4 % with two "
    "(2.5 % are meant). Each claim stands by itself: nothing is corrected for their number."
)


def slug(title: str) -> str:
    """A question's title within the name of a metric.

    >>> slug("melanoma"), slug("Any malignancy")
    ('melanoma', 'any_malignancy')
    """
    return "_".join(re.findall(r"[a-z0-9]+", title.lower()))


def metric_titles(schema: Schema, suite: SweepSpec) -> dict[Metric, str]:
    """Metric -> title, in the order of the table.

    Raises:
        EdgeskinError: a target names a task or class that the schema lacks, or a comparison an unknown metric.
    """
    found = {"macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy"}
    targets = (schema.target, *suite.target)
    for target in targets:
        _indices(target, schema)
        found[f"auc_{slug(target.title)}"] = f"AUC {target.title}"
    for target in targets:
        title = f"sensitivity {target.title} at {suite.specificity:.0%} specificity".replace("%", " %")
        found[f"sensitivity_{slug(target.title)}"] = title
    for question in suite.comparison:
        if question.metric not in found:
            raise unknown(f"metric of the comparison {question.question!r}", question.metric, found)
    return found


def _indices(target: Target, schema: Schema) -> list[int]:
    if target.task not in (task.name for task in schema.tasks):
        raise unknown(f"task of the target {target.title!r}", target.task, [task.name for task in schema.tasks])
    names = schema.task(target.task).class_names
    for name in target.positive:
        if name not in names:
            raise unknown(f"class of the target {target.title!r}", name, names)
    return [names.index(name) for name in target.positive]


def probabilities(given: Answers, schema: Schema, reading: Reading) -> dict[str, Floats]:
    """Task -> class probabilities [lesions, classes] of one way to ask.

    Raises:
        EdgeskinError: the run has no such answers.
    """
    if reading == "dermoscopic" and given.dermoscopic is not None:
        return decide.task_probabilities(given.dermoscopic[:, None], schema, given.fusion, "dermoscopic")
    if reading == "clinical" and given.clinical is not None:
        return {
            task: decide.softmax(given.clinical[:, part], given.fusion[task].temperature_clinical)
            for task, part in schema.slices().items()
        }
    if given.pair is None or reading in ("dermoscopic", "clinical"):
        raise EdgeskinError("this run was not asked so", got=reading)
    if reading == "pair":
        return decide.task_probabilities(given.pair, schema, given.fusion, "pair")
    branches = decide.branch_probabilities(given.pair[:, :2], schema, given.fusion, "pair")
    return branches["clinical" if reading == "clinical-branch" else "dermoscopic"]


@dataclass
class Judge:
    """Works out figures on one test role: the same lesions and draws for every run."""

    suite: SweepSpec
    schema: Schema
    first: Answers  # of any run: its lesions and labels are everyone's
    titles: dict[Metric, str] = field(init=False)
    weights: Floats = field(init=False)
    _rows: dict[tuple[str, int, Reading], Rows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.titles = metric_titles(self.schema, self.suite)
        groups = np.unique(list(self.first.groups), return_inverse=True)[1].astype(np.int64)
        self.weights = boot.draws(groups, self.suite.bootstrap)

    def rows(self, variant: str, seed: int, given: Answers, reading: Reading) -> Rows:
        """Every metric of one run on every draw; worked out once.

        Raises:
            EdgeskinError: the run answered for other lesions than the first one, or for other classes.
        """
        if (variant, seed, reading) not in self._rows:
            if given.lesions != self.first.lesions:
                raise EdgeskinError("runs of one sweep answered for different lesions", got=f"{variant}, seed {seed}")
            _check_classes(given, self.schema, f"{variant}, seed {seed}")
            self._rows[variant, seed, reading] = self._work_out(given, reading)
        return self._rows[variant, seed, reading]

    def _work_out(self, given: Answers, reading: Reading) -> Rows:
        found = probabilities(given, self.schema, reading)
        names = [task.name for task in self.schema.tasks]
        main = self.schema.target.task
        labels = self.first.labels[:, names.index(main)]
        known = labels >= 0
        matrices = boot.confusion(
            self.weights[:, known], labels[known], found[main][known].argmax(1), found[main].shape[1]
        )
        rows = {"macro_f1": boot.macro_f1(matrices), "balanced_accuracy": boot.balanced_accuracy(matrices)}
        for target in (self.schema.target, *self.suite.target):
            truth = self.first.labels[:, names.index(target.task)]
            known, chosen = truth >= 0, _indices(target, self.schema)
            positive, drawn = np.isin(truth[known], chosen), self.weights[:, known]
            score = found[target.task][known][:, chosen].sum(-1)
            name = slug(target.title)
            rows[f"auc_{name}"] = boot.auc(drawn, positive, score)
            rows[f"sensitivity_{name}"] = boot.sensitivity_at_specificity(
                drawn, positive, score, self.suite.specificity
            )
        return {metric: rows[metric] for metric in self.titles}

    def figures(self, per_seed: Mapping[int, Rows]) -> dict[Metric, Figure]:
        """The mean over seeds of every metric."""
        return {metric: _figure({seed: rows[metric] for seed, rows in per_seed.items()}) for metric in self.titles}

    def variant(self, name: str, found: Found, failed: Mapping[int, str]) -> VariantResult:
        """Figures of one variant in all of its readings."""
        spec = self.suite[name]
        any_run = next(iter(found.values()), None)
        readings = []
        for reading in self.suite.readings(spec) if any_run else ():
            per_seed = {seed: self.rows(name, seed, given, reading) for seed, given in found.items()}
            assert any_run is not None
            macs = any_run.macs[reading]
            readings.append(ReadingResult(reading=reading, macs=macs, figures=self.figures(per_seed)))
        return VariantResult(
            name=name,
            title=spec.title or name,
            group=spec.group,
            note=spec.note,
            parameters=any_run.parameters if any_run else None,
            seeds=tuple(found),
            failed=dict(failed),
            seconds={seed: given.seconds for seed, given in found.items() if given.seconds is not None},
            readings=tuple(readings),
        )

    def answer(self, question: Question, found: Mapping[str, Found]) -> Answer:
        """One comparison: differences on the same draws, over the seeds that both sides finished."""
        sides = []
        for name, reading in ((question.a, question.a_reading), (question.b, question.b_reading)):
            sides.append((name, reading or self.suite.readings(self.suite[name])[0]))
        runs = [found.get(name, {}) for name, _ in sides]
        seeds = tuple(seed for seed in runs[0] if seed in runs[1])
        per_seed: dict[int, Rows] = {}
        for seed in seeds:
            a, b = (self.rows(name, seed, run[seed], reading) for (name, reading), run in zip(sides, runs, strict=True))
            per_seed[seed] = {metric: a[metric] - b[metric] for metric in self.titles}
        differences = self.figures(per_seed) if seeds else {}
        judged = differences.get(question.metric)
        verdict, reason = decide_on(judged, question.at_least)
        one = [run[seeds[0]] for run in runs] if seeds else []
        macs = [run.macs[reading] for run, (_, reading) in zip(one, sides, strict=False)]
        return Answer(
            question=question.question,
            a=question.a,
            b=question.b,
            a_reading=sides[0][1],
            b_reading=sides[1][1],
            metric=question.metric,
            at_least=question.at_least,
            seeds=seeds,
            differences=differences,
            parameters_ratio=one[0].parameters / one[1].parameters if one else None,
            macs_ratio=macs[0] / macs[1] if macs and macs[1] else None,
            resolvable=judged.resolvable if judged else None,
            verdict=verdict,
            reason=reason,
        )


def _check_classes(given: Answers, schema: Schema, run: str) -> None:
    for logits in (given.pair, given.dermoscopic, given.clinical):
        if logits is not None and logits.shape[-1] != schema.logits:
            raise EdgeskinError(
                "a run answered for other classes",
                got=f"{run}: {logits.shape[-1]}",
                possible=f"{schema.name} with {schema.logits}",
                fix="delete its folder, or choose another --out",
            )


def _figure(per_seed: Mapping[int, Floats]) -> Figure:
    """The mean over seeds on each draw, its interval, and what each seed gave.

    >>> given = {0: np.array([0.5, 0.4, 0.6]), 1: np.array([0.7, 0.6, 0.6])}
    >>> found = _figure(given)
    >>> round(found.estimate.value, 3), found.seeds, round(found.spread, 4)
    (0.6, {0: 0.5, 1: 0.7}, 0.1414)
    """
    value, low, high = boot.interval(np.mean(list(per_seed.values()), axis=0))
    own = {seed: float(rows[0]) for seed, rows in per_seed.items() if not math.isnan(rows[0])}
    if math.isnan(value):
        return Figure(estimate=Estimate(reason="undefined on these lesions: one side of the question has none"),
                      seeds=own, spread=None, with_seeds=None)  # fmt: skip
    spread = float(np.std(list(own.values()), ddof=1)) if len(own) > 1 else None
    if math.isnan(low):
        estimate = Estimate(value=value, reason="no interval: undefined on every draw")
        return Figure(estimate=estimate, seeds=own, spread=spread, with_seeds=None)
    wide = None if spread is None else widened(value, low, high, spread, len(own))
    return Figure(estimate=Estimate(value=value, low=low, high=high), seeds=own, spread=spread, with_seeds=wide)
