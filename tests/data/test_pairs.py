"""What a pair says of itself."""

import dataclasses
from pathlib import Path

from edgeskin.data.pairs import Pair


def test_a_patient_and_a_lesion_of_the_same_name_are_not_drawn_together():
    seven = Pair("7", Path("d"), Path("c"), {}, 1)
    of_patient_7 = Pair("8", Path("d"), Path("c"), {}, 2, patient_id="7")
    assert seven.group != of_patient_7.group == dataclasses.replace(of_patient_7, lesion_id="9").group
