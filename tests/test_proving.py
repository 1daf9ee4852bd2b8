"""What FP32 answers on the control role is asked once and kept, and a damaged file is asked again."""

from pathlib import Path

import numpy as np
import pytest

from edgeskin.proving import Logits, kept_answers


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_answers_are_kept_and_damaged_ones_asked_again(damage: bytes | None, tmp_path: Path) -> None:
    asked: list[int] = []

    def ask() -> Logits:
        asked.append(1)
        both = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
        both[0, 0] = np.nan  # a lesion without clinical image
        return {"pair": both, "dermoscopic": both[:, 1:]}

    path = tmp_path / "answers.npz"
    first = kept_answers(path, ask)
    assert [file.name for file in tmp_path.iterdir()] == ["answers.npz"]
    if damage is None:
        path.write_bytes(path.read_bytes()[:-40])
    else:
        path.write_bytes(damage)
    again = kept_answers(path, ask)
    assert len(asked) == 2
    kept = kept_answers(path, ask)
    assert len(asked) == 2
    for found in (again, kept):
        assert found.keys() == first.keys()
        for mode, logits in found.items():
            np.testing.assert_array_equal(logits, first[mode])
            assert logits.dtype == np.float32
