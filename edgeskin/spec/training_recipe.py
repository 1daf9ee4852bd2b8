"""Training recipe: everything that makes a checkpoint but where its data lies (benchmarks/recipes/*.toml)."""

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.roles import RoleSpec
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec


class RecipeData(Spec):
    """Which data, without its root: a recipe is the same on every machine."""

    name: str = Field(min_length=1)  # of the loader
    schema_name: str = ""  # "" = the loader's own
    roles: RoleSpec = RoleSpec()
    border_px: int = Field(default=0, ge=0)

    def at(self, root: str) -> DataSpec:
        """The same data where it lies on this machine.

        >>> RecipeData(name="milk10k", schema_name="milk10k5").at("data/milk10k").schema_name
        'milk10k5'
        """
        return DataSpec(
            name=self.name, root=root, schema_name=self.schema_name, roles=self.roles, border_px=self.border_px
        )


class TrainingRecipe(Spec):
    """A training that one command repeats: data, network, optimisation, first weights."""

    name: str = Field(min_length=1)
    title: str = ""
    note: str = ""  # what it reached, how long it takes
    data: RecipeData
    network: NetworkSpec
    train: TrainSpec = TrainSpec()
    weights: str = ""  # "" = pretrained ones of the backbone where they are at hand, or `scratch`
