"""Colours of the page: enough contrast in each scheme, and series that differ for every eye and in grey print."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeskin.report import html

CSS = (Path(html.__file__).parent / "templates" / "style.css").read_text()
# Machado, Oliveira and Fernandes 2009, severity 1.0: what a colour looks like to an eye without one kind of cone.
EYES = {
    "usual": np.eye(3),
    "protan": np.array([[0.1522, 1.0525, -0.2048], [0.1145, 0.7862, 0.0992], [-0.0038, -0.0481, 1.0519]]),
    "deutan": np.array([[0.3673, 0.8606, -0.2279], [0.2800, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9688]]),
    "tritan": np.array([[1.2555, -0.0767, -0.1787], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6913, 0.3039]]),
}  # fmt: skip


def variables(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):\s*([^;]+);", block))


def schemes() -> dict[str, dict[str, str]]:
    """Variables of each scheme; dark and print change some of those of light."""
    light = variables(CSS.partition("}")[0])
    dark = variables(CSS.partition("prefers-color-scheme: dark")[2].partition("} }")[0])
    paper = variables(CSS.partition("@media print")[2].partition("}")[0])
    assert len(dark) > 10
    return {"light": light, "dark": light | dark, "print": light | paper}


def encoded(colour: str) -> NDArray[np.float64]:
    """A #rgb or #rrggbb colour as shares of 255, 0 to 1 (sRGB)."""
    digits = colour.strip().lstrip("#")
    digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
    return np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def linear(colour: str) -> NDArray[np.float64]:
    """A colour as linear light, 0 to 1."""
    return decoded(encoded(colour))


def decoded(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def luminance(light: NDArray[np.float64]) -> float:
    return float(light @ np.array([0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    """Ratio of WCAG 2.2."""
    high, low = sorted((luminance(linear(one)), luminance(linear(other))), reverse=True)
    return (high + 0.05) / (low + 0.05)


def lab(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    scaled = (to_xyz @ light.clip(0, 1)) / np.array([0.9505, 1.0, 1.089])
    f = np.where(scaled > 0.0088, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_text_and_series_stand_out(name: str) -> None:
    scheme = schemes()[name]
    for text in ("ink", "soft"):
        assert contrast(scheme[text], scheme["paper"]) >= 4.5, text
        assert contrast(scheme[text], scheme["panel"]) >= 4.5, text
    for mark in ("s0", "s1", "s2", "s3", "good", "bad"):
        assert contrast(scheme[mark], scheme["paper"]) >= 3, mark
    assert contrast(scheme["warn"], scheme["warn-ink"]) >= 4.5
    assert contrast(scheme["alarm"], scheme["alarm-ink"]) >= 4.5
    assert contrast(scheme["bad"], scheme["paper"]) >= 4.5  # words, not marks alone


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_the_two_series_of_a_chart_differ_for_every_eye(name: str, eye: str) -> None:
    scheme = schemes()[name]
    seen = [lab(EYES[eye] @ linear(scheme[series])) for series in ("s0", "s1")]
    assert np.linalg.norm(seen[0] - seen[1]) > 25


def test_series_differ_without_colour_too() -> None:
    dashes = [re.search(rf"\.curve\.s{n} {{ stroke-dasharray: ([^;]+);", CSS) for n in range(4)]
    found = [dash[1] if dash else "none" for dash in dashes]
    assert all(one != other for one, other in itertools.combinations(found, 2))
    from edgeskin.report.svg import marker

    shapes = {re.sub(r"s\d", "", marker(n, 0, 0)) for n in range(4)}
    assert len(shapes) == 4


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_precisions_of_the_map_differ_for_every_eye(name: str, eye: str) -> None:
    """INT8 is filled, the others are tinted with an outline: what is seen is the mixture with the paper."""
    scheme = schemes()[name]
    fills = {"int8": ("s0", 1.0)}
    for precision in ("bf16", "fp32"):
        found = re.search(rf"\.p-{precision}[^{{]*{{ fill: var\(--(\w+)\); fill-opacity: ([\d.]+)", CSS)
        assert found
        fills[precision] = found[1], float(found[2])
    seen = {p: lab(EYES[eye] @ mixed(scheme[c], scheme["paper"], share)) for p, (c, share) in fills.items()}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 20, (one, other)


def mixed(colour: str, paper: str, share: float) -> NDArray[np.float64]:
    """A colour of that opacity over another, as linear light: browsers mix the encoded values."""
    return decoded(share * encoded(colour) + (1 - share) * encoded(paper))
