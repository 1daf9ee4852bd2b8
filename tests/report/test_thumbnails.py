"""Pictures of lesions that flip: upright, without metadata, and on the page alone."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeskin.errors import EdgeskinError
from edgeskin.report import html, inputs, thumbnails


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_a_thumbnail_is_small_upright_and_bare(photo: Path) -> None:
    text = thumbnails.thumbnail(photo, 64)
    image = decoded(text)
    assert image.format == "JPEG"
    assert image.size == (64, 64)
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels[:24, :, 0].min() > pixels[:24, :, 2].max()  # red above
    assert pixels[40:, :, 2].min() > pixels[40:, :, 0].max()  # blue below
    assert len(image.getexif()) == 0
    assert "comment" not in image.info
    assert b"SECRET" in photo.read_bytes()
    assert b"SECRET" not in base64.b64decode(text)


def test_no_path_no_thumbnail_and_a_missing_file_is_an_error(tmp_path: Path) -> None:
    assert thumbnails.thumbnail(None) == ""
    with pytest.raises(EdgeskinError, match="no such image"):
        thumbnails.thumbnail(tmp_path / "absent.jpg")


def test_pictures_stand_on_the_page_and_nowhere_else(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    page = html.render(given_proven, tmp_path / "report.html").read_text()
    picture = given_proven.bundles[0].thumbnails[f"{0xA1:016x}"].clinical
    assert page.count(f'src="data:image/jpeg;base64,{picture}"') == 3
    assert "This page contains images of the data set." in page
    assert "img-src data:;" in page
    assert "P(melanoma) 0.213 → 0.514" in page
    assert page.count('<li class="grave">') == 1  # the one that moves to melanoma, and it comes first
    assert page.index(f"<code>{0xA1:016x}</code>") < page.index(f"<code>{0xA3:016x}</code>")
    assert "no clinical image" in page
    for twin in ((tmp_path / "report.md").read_text(), (tmp_path / "report.json").read_text()):
        assert picture[:60] not in twin
        assert "thumbnails" not in twin
        assert "0.514" not in twin
    assert "thumbnails" not in json.dumps(given_proven.to_json())
    assert picture[:60] not in repr(given_proven)


def test_without_pictures_there_is_a_list(given_proven: inputs.ReportInput, tmp_path: Path) -> None:
    first = given_proven.bundles[0].model_copy(update={"thumbnails": {}})
    page = html.render(given_proven.model_copy(update={"bundles": (first,)}), tmp_path / "report.html").read_text()
    assert "images of the data set" not in page
    assert "img-src" not in page
    assert "<img" not in page
    table = page.partition('data-key="flipped"')[2].partition("</table>")[0]
    rows = re.findall(r'<th scope="row">(\w+)</th><td>(\w+)</td><td>([^<]+)</td><td>([^<]+)</td>', table)
    assert len(rows) == 2 * 5 + 2 * 3  # of the gate and of verify, in both modes
    assert rows[0] == (f"{0xA1:016x}", "control", "clinical + dermoscopic", "diagnosis and referral")
    assert (f"{0xA5:016x}", "control", "dermoscopic alone", "diagnosis") in rows


def test_no_flip_is_told(given_proven: inputs.ReportInput) -> None:
    first = given_proven.bundles[0]
    assert first.evidence is not None
    assert first.evidence.gate is not None
    still = {
        mode: found.model_copy(
            update={
                "predicted": found.predicted.model_copy(update={"lesions": ()}),
                "referral": found.referral.model_copy(update={"lesions": ()}),
            }
        )
        for mode, found in first.evidence.gate.parity.items()
    }
    proof = first.evidence.model_copy(update={"gate": first.evidence.gate.model_copy(update={"parity": still})})
    part = thumbnails.part(first.model_copy(update={"evidence": proof, "verify": None, "thumbnails": {}}))
    assert part is not None
    assert part.notes == ("No lesion of role control has another diagnosis or referral.",)


@pytest.mark.parametrize("text", ['"><script>', "aGk=\n", "data:image/png", "a=b"])
def test_a_picture_is_base64_and_nothing_else(text: str) -> None:
    with pytest.raises(EdgeskinError):
        inputs.Thumbnail.parse({"clinical": text}, "a thumbnail")
