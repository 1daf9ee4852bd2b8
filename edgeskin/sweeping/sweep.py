"""The sweep itself: what is missing is run, what is there is kept, and everything is judged together."""

import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeskin import out, provenance
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, pretty_json, write_atomic
from edgeskin.spec.sweep import SweepSpec
from edgeskin.spec.sweep_result import Column, SweepResult
from edgeskin.sweeping.answers import Answers, read
from edgeskin.sweeping.figures import METHOD, Judge, metric_titles
from edgeskin.sweeping.plan import FRAMES, Job, is_finished, jobs
from edgeskin.sweeping.runners import run_all

RESULT = "sweep.json"
PART = "sweep-part.json"
_LOCK = ".lock"


def sweep(
    suite: SweepSpec, root: str, folder: Path, *, whole: SweepSpec | None = None, at_once: int = 0, threads: int = 1,
    address: str = "",
) -> SweepResult:  # fmt: skip
    """Do the runs that are missing in `folder`, judge all, and write `result_file`.

    Args:
        root: where the suite's data lies.
        whole: the suite that this is a part of, whose own result and shared frames stay; None: it is no part.
        at_once: runs side by side; 0: as many as there are cores for.
        threads: of each run.
        address: of a Ray cluster, whose nodes see `root` and `folder` under the same names; "": this machine.

    Raises:
        EdgeskinError: faults of the data, no lesion to judge by, another sweep or its runs in the folder, no Ray where
            it is needed, or no run that came to its end.
    """
    from edgeskin.sweeping.work import load

    data = suite.base.data.at(root)
    pairset, roles = load(data)
    metric_titles(pairset.schema, suite)  # unknown classes and metrics are told before hours of training
    _check_images(suite, roles)
    plan = jobs(suite, data, roles, pairset.schema, folder, threads)
    entire = jobs(whole, data, roles, pairset.schema, folder) if whole else plan
    missing = [job for job in plan if not is_finished(job)]
    failed: dict[str, dict[int, str]] = defaultdict(dict)
    with os_errors(folder), _alone(folder) as alone:
        if missing and not alone:
            raise EdgeskinError(
                "another sweep is at work in this folder", got=str(folder), fix="wait for it, or choose another --out"
            )
        if missing:
            _prepare(missing, pairset, roles)
            _run(missing, len(plan), at_once, address, failed)
        if alone and all(job.answers.is_file() for job in entire):
            shutil.rmtree(folder / FRAMES, ignore_errors=True)  # what only a run needs
        found = _finished(plan)
        result = _judge(suite, pairset, roles, found, failed)
        write_atomic(result_file(folder, suite, whole), pretty_json(result.to_json()))
    return result


def result_file(folder: Path, suite: SweepSpec, whole: SweepSpec | None = None) -> Path:
    """Where a sweep's result goes: sweep.json; that of some variants or seeds to sweep-part.json, beside the whole."""
    return folder / (RESULT if whole in (None, suite) else PART)


def _check_images(suite: SweepSpec, roles: Roles) -> None:
    """Refuse what no run could be judged by, before the first one trains."""
    clinical = [one.name for one in suite.variant if suite.networked(one).modalities != "dermoscopic"]
    if clinical and not any(pair.clinical is not None for pair in roles["test"]):
        raise EdgeskinError(
            "no lesion of the test role has both images",
            got=f"{len(roles['test'])} lesions; clinical images are looked at by {', '.join(clinical)}",
            fix='add clinical images, change base.data.roles, or set modalities = "dermoscopic"',
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other sweep works in this folder; none can begin meanwhile. The system ends it with the process."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _prepare(missing: Sequence[Job], pairset: Any, roles: Roles) -> None:
    """Look at every image once, and decode the frames that all runs share."""
    if not missing[0].frames.is_dir():
        from edgeskin.data.check import check_images

        check_images(pairset)
    from edgeskin.training.shared import share_frames

    shapes = {(job.network.backbone, job.train.size): job for job in missing}
    for job in shapes.values():
        # A backbone that does not exist fails its own runs, not the sweep.
        with contextlib.suppress(EdgeskinError):
            share_frames(job.network, job.train, job.data.border_px, roles, job.frames)


def _run(missing: Sequence[Job], total: int, at_once: int, address: str, failed: dict[str, dict[int, str]]) -> None:
    """Do these runs; each that ends is told, each that fails is noted."""
    done, began = total - len(missing), time.monotonic()
    if done:
        out.note(f"{done} of {total} runs finished before")
    with (
        out.progress("sweep", len(missing)) as step,
        contextlib.closing(run_all(missing, at_once, address)) as outcomes,
    ):
        for count, (job, reason) in enumerate(outcomes, start=1):
            if not reason and not is_finished(job):
                reason = f"its answers are not here: do all nodes see {job.folder.parent} under this name?"
            if reason:
                failed[job.variant][job.seed] = reason
            left = (time.monotonic() - began) / count * (len(missing) - count)
            end = f"failed: {reason}" if reason else "finished"
            out.note(f"{done + count}/{total} {job.name} {end}; about {left / 60:.0f} min left")
            step(1)


def _finished(plan: Sequence[Job]) -> dict[str, dict[int, Answers]]:
    found: dict[str, dict[int, Answers]] = defaultdict(dict)
    for job in plan:
        if is_finished(job):
            found[job.variant][job.seed] = read(job.answers)
    return found


def _judge(
    suite: SweepSpec,
    pairset: Any,
    roles: Roles,
    found: Mapping[str, Mapping[int, Answers]],
    failed: Mapping[str, Mapping[int, str]],
) -> SweepResult:
    runs = [one for of_variant in found.values() for one in of_variant.values()]
    if not runs:
        reasons = [f"{name}, seed {seed}: {why}" for name, of in failed.items() for seed, why in of.items()]
        raise EdgeskinError(
            "no run of the sweep came to its end",
            got=reasons[0] if reasons else "no run",
            fix="mend it and run the same command again",
            details=reasons,
        )
    schema = pairset.schema
    judge = Judge(suite, schema, runs[0])
    task = schema.task(schema.target.task)
    labels = runs[0].labels[:, [t.name for t in schema.tasks].index(task.name)]
    with out.progress("judging", len(suite.variant)) as step:
        variants = []
        for variant in suite.variant:
            variants.append(judge.variant(variant.name, found.get(variant.name, {}), failed.get(variant.name, {})))
            step(1)
    return SweepResult(
        created=provenance.now(),
        suite=suite,
        data=pairset.name,
        phantom=pairset.phantom,
        roles=roles.records(),
        lesions=len(labels),
        left_out=runs[0].left_out,
        classes={name: int((labels == number).sum()) for number, name in enumerate(task.class_names)},
        metrics=tuple(Column(metric=metric, title=title) for metric, title in judge.titles.items()),
        method=METHOD,
        variants=tuple(variants),
        answers=tuple(judge.answer(question, found) for question in suite.comparison),
        machine="; ".join(sorted({run.machine for run in runs})),
        versions=provenance.versions(),
        git_revision=provenance.git_revision(),
    )
