import pytest

from edgeskin.errors import EdgeskinError
from edgeskin.spec.train import NetworkSpec


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"attention_dim": 10}, "attention_dim 10 is not a multiple of attention_heads 4"),
        ({"attention_heads": 5}, "attention_dim 64 is not a multiple of attention_heads 5"),
        ({"fused_head": True, "modalities": "dermoscopic"}, "a fused head looks at both images, modalities are 'dermo"),
        (
            {"fused_head": True, "modalities": "clinical"},
            "a fused head looks at both images, modalities are 'clinical'",
        ),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_line(asked, said):
    with pytest.raises(EdgeskinError, match=f"^the options: {said}.*; fix: correct these keys$"):
        NetworkSpec.parse({"backbone": "x", **asked}, "the options")


@pytest.mark.parametrize("free", [{"attention_reduction": 4.0}, {"attention_stages": ()}])
def test_heads_ask_nothing_of_a_width_that_is_not_used(free):
    NetworkSpec.parse({"backbone": "x", "attention_dim": 10, **free}, "the options")


@pytest.mark.parametrize(("asked", "rows"), [({}, 2), ({"fused_head": True}, 3), ({"modalities": "clinical"}, 2)])
def test_rows_of_logits_of_a_pair(asked, rows):
    assert NetworkSpec(backbone="x", **asked).pair_rows == rows
