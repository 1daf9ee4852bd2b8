"""The list of backends, and what they share."""

import os

import pytest

from edgeskin import backends, catalog
from edgeskin.errors import EdgeskinError


def test_unknown_target_names_the_nearest():
    with pytest.raises(EdgeskinError, match=r"unknown target: got 'openvin'.*did you mean 'openvino'"):
        backends.get("openvin")


@pytest.mark.parametrize("name", backends.NAMES)
def test_every_backend_has_the_same_verbs(name):
    backend = backends.get(name)
    assert all(callable(getattr(backend, verb)) for verb in ("unsupported", "build", "open"))


def test_every_target_has_its_two_recipes():
    for name in backends.NAMES:
        for precision in ("fp32", "int8"):
            recipe = catalog.recipe(f"{name}-{precision}")
            assert (recipe.name, recipe.target, recipe.precision) == (f"{name}-{precision}", name, precision)
            assert backends.get(name).unsupported(recipe) is None
    assert {catalog.recipe(name).target for name in catalog.recipe_names()} <= set(backends.NAMES)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process")
def test_usable_cores_follow_pinning():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert backends.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert backends.usable_cores() == len(before)
