"""Options of `edgeskin train` that decide what is drawn and which heads a network has."""

import pytest
from typer.testing import CliRunner

from edgeskin.cli import app
from edgeskin.errors import EdgeskinError
from edgeskin.model.checkpoint import read_record

RECIPE = """
name = "tiny"
[data]
name = "derm7pt"
[data.roles]
calibration = 0.2
[network]
backbone = "test_efficientnet"
attention_dim = 16
attention_heads = 2
fused_head = true
[train]
epochs = 1
batch_pairs = 6
size = 32
start_size = 32
workers = 0
threads = 1
accelerator = "cpu"
allocator = false
"""


@pytest.fixture(scope="module")
def train(phantom, tmp_path_factory):
    """train(name, *options): a run of that name with a recipe that has a fused head."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "tiny.toml").write_text(RECIPE)

    def call(name, *options):
        given = ["--recipe", folder / "tiny.toml", "--root", phantom, "--weights", "scratch", "--out", folder / name]
        done = CliRunner().invoke(app, [str(a) for a in ("train", *given, *options)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return folder / name

    return call


@pytest.fixture(scope="module")
def taught(train):
    """A teacher whose roles are drawn with seed 0."""
    return train("teacher")


def test_a_student_of_another_seed_can_have_its_teachers_roles(train, taught):
    """`--seed` alone draws other roles, among them lesions that the teacher trained on."""
    with pytest.raises(
        EdgeskinError, match=r"trained on lesions of this training's .* the same shares and --role-seed"
    ):
        train("other", "--teacher", taught, "--seed", 1)
    record = read_record(train("student", "--teacher", taught, "--seed", 1, "--role-seed", 0))
    assert (record.train.seed, record.data.roles.seed) == (1, 0)
    assert record.roles == read_record(taught).roles


def test_a_seed_alone_draws_roles_too(train):
    record = read_record(train("seeded", "--seed", 3))
    assert (record.train.seed, record.data.roles.seed) == (3, 3)


def test_a_recipes_fused_head_can_be_left_out(train, taught):
    assert read_record(taught).network.fused_head
    with pytest.raises(EdgeskinError, match=r"--fused-weight is of a fused head: got 'a network without one'"):
        train("plain", "--no-fused-head", "--fused-weight", 0.5)
    assert not read_record(train("plain", "--no-fused-head")).network.fused_head
    assert read_record(train("weighed", "--fused-weight", 0.5)).train.fused_weight == 0.5
