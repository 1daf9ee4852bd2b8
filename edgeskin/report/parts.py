"""What a bundle's section is made of: parts with tables, charts, matrices, pictures and remarks."""

from dataclasses import dataclass

from markupsafe import Markup

from edgeskin.report.inputs import Thumbnail
from edgeskin.report.text import Table


@dataclass(frozen=True, slots=True)
class Confusion:
    """A confusion matrix ready to show: `shade` 0..1 is the share of the row."""

    task: str
    names: tuple[str, ...]
    rows: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart and what stands above it."""

    title: str
    chart: Markup


@dataclass(frozen=True, slots=True)
class Card:
    """A lesion with its two images and what each model answers. On the page only, never in its twins.

    `lines`: words, and whether they head what follows.
    """

    name: str
    picture: Thumbnail
    lines: tuple[tuple[str, bool], ...]
    grave: bool = False  # it moved to or from the target


@dataclass(frozen=True, slots=True)
class Look:
    """A lesion under its saliency. On the page only, never in its twins.

    `images`: what, frame, the frame under its saliency (both base64 of JPEG), words below. `lines`: as of a card.
    """

    name: str
    images: tuple[tuple[str, str, str, str], ...]
    lines: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A heading with what belongs to it; shown in the order of the fields. `folded` tables open on a click."""

    title: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    cards: tuple[Card, ...] = ()
    folded: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """A line at the top of a section; `good` is None where it is neither good nor bad."""

    words: str
    good: bool | None
