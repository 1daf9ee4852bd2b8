import pytest

from edgeskin import provenance

BOARDS = {
    "processor\t: 0\nmodel name\t: Intel(R) Core(TM) Ultra 7 165H\nflags\t: fpu\n": "Intel(R) Core(TM) Ultra 7 165H",
    "CPU part\t: 0xd0b\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n": "Raspberry Pi 5 Model B Rev 1.0",
}


@pytest.mark.parametrize("text", BOARDS)
def test_the_processor_by_its_own_name_or_the_board(tmp_path, text):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(text)
    assert provenance.processor(tmp_path) == BOARDS[text]


def test_no_cpuinfo_is_no_error(tmp_path):
    assert isinstance(provenance.processor(tmp_path), str)
