"""Task schema: which tasks a classifier answers, their classes, and the points they score."""

from pydantic import Field, model_validator

from edgeskin.spec.base import Spec


class ClassSpec(Spec):
    """One class of a task. `values` are the raw labels in the data that mean this class."""

    name: str = Field(min_length=1)
    title: str = ""
    values: tuple[str, ...] = ()
    points: int = Field(default=0, ge=0)


class Task(Spec):
    """One question about a lesion: an ordered list of classes. `column` names it in the data."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    title: str = ""
    column: str = ""
    classes: tuple[ClassSpec, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _unique(self) -> "Task":
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ValueError(f"task {self.name}: class names repeat: {names}")
        values = [v.lower() for c in self.classes for v in (c.values or (c.name,))]
        if len(set(values)) != len(values):
            raise ValueError(f"task {self.name}: a raw value stands for two classes")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in order; the index is the class number."""
        return tuple(c.name for c in self.classes)

    @property
    def raw_to_index(self) -> dict[str, int]:
        """Lower-case raw label -> class number."""
        return {v.lower(): i for i, c in enumerate(self.classes) for v in (c.values or (c.name,))}


class Target(Spec):
    """The binary question that is put first: P(any of `positive`) of `task` against a threshold."""

    task: str
    positive: tuple[str, ...] = Field(min_length=1)
    title: str = "melanoma"


class Score(Spec):
    """A sum of points over the predicted classes of all tasks, with the thresholds to report."""

    title: str
    thresholds: tuple[int, ...] = Field(min_length=1)


class Schema(Spec):
    """A named set of tasks, in the order of the network's outputs."""

    name: str = Field(min_length=1)
    title: str = ""
    tasks: tuple[Task, ...] = Field(min_length=1)
    target: Target
    score: Score | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Schema":
        names = [t.name for t in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"task names repeat: {names}")
        if self.target.task not in names:
            raise ValueError(f"target.task {self.target.task!r} is not one of {names}")
        known = self.task(self.target.task).class_names
        for name in self.target.positive:
            if name not in known:
                raise ValueError(f"target.positive {name!r} is not one of {list(known)}")
        return self

    def task(self, name: str) -> Task:
        """The task of that name."""
        return next(t for t in self.tasks if t.name == name)

    @property
    def logits(self) -> int:
        """How many numbers a branch gives: the classes of all tasks, one after the other."""
        return sum(len(t.classes) for t in self.tasks)

    def slices(self) -> dict[str, slice]:
        """Where each task's classes stand in the logits."""
        found, start = {}, 0
        for task in self.tasks:
            found[task.name] = slice(start, start + len(task.classes))
            start += len(task.classes)
        return found

    def target_indices(self) -> tuple[int, ...]:
        """Class numbers of the target's positive classes within its task."""
        names = self.task(self.target.task).class_names
        return tuple(names.index(p) for p in self.target.positive)
