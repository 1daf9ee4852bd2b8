"""How many real images the quality gate refuses, and how many made faults it finds; writes results/quality-gate.json.

python benchmarks/quality_gate.py --bundle bundles/milk-ov

The thresholds of `swapped` are fitted as an export does, on the calibration and control roles of the bundle's data; the
figures are of its test role, which set no threshold. Faults are made on the prepared frames.
"""

import argparse
import io
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from edgeskin import files, metrics, out
from edgeskin.chain import load_roles
from edgeskin.data.pairs import Pair
from edgeskin.opening import open_bundle
from edgeskin.preprocess import prepare
from edgeskin.quality import assess
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.quality import FLAGS, Quality
from edgeskin.swapped import fitted

RESULT = Path(__file__).parent / "results" / "quality-gate.json"
KINDS = ("clinical", "dermoscopic")
Frames = NDArray[np.uint8]
Spoil = Callable[[Frames], Frames]
RANDOM = np.random.default_rng(0)


def blur(sigma: float) -> Spoil:
    return lambda frame: np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma)))


def movement(pixels: int) -> Spoil:
    def spoil(frame: Frames) -> Frames:
        wide = np.pad(frame.astype(np.int64), ((0, 0), (pixels, 0), (0, 0)), "edge").cumsum(1)
        return np.asarray((wide[:, pixels:] - wide[:, :-pixels]) // pixels, np.uint8)

    return spoil


def gain(by: float) -> Spoil:
    return lambda frame: np.clip(np.rint(frame * np.float64(by)), 0, 255).astype(np.uint8)


def jpeg(quality: int) -> Spoil:
    def spoil(frame: Frames) -> Frames:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=quality)
        return np.asarray(Image.open(stream))

    return spoil


def level(mean: float, noise: float) -> Spoil:
    return lambda frame: np.clip(np.rint(RANDOM.normal(mean, noise, frame.shape)), 0, 255).astype(np.uint8)


def lens_cap(frame: Frames) -> Frames:
    """Dark, with a little light from one side."""
    glow = np.linspace(0, 14, frame.shape[1])[None, :, None]
    return np.clip(np.rint(RANDOM.normal(0, 3, frame.shape) + glow), 0, 255).astype(np.uint8)


# name, flag that names it, how it is made; "" where no flag does
SPOILT: tuple[tuple[str, str, Spoil], ...] = (
    *((f"out of focus, sigma {sigma} px", "blurred", blur(sigma)) for sigma in (1, 2, 3, 4)),
    *((f"moved by {pixels} px", "blurred", movement(pixels)) for pixels in (7, 15)),
    ("gain 0.15", "dark", gain(0.15)),
    ("gain 0.3", "dark", gain(0.3)),
    ("gain 2, clipped", "saturated", gain(2.0)),
    ("gain 3, clipped", "saturated", gain(3.0)),
    ("black frame, noise 5", "empty", level(0, 5)),
    ("grey frame, noise 5", "empty", level(128, 5)),
    ("lens cap, some light", "dark", lens_cap),
    ("JPEG quality 10", "", jpeg(10)),
)
PAIRED: tuple[tuple[str, str, Callable[[Frames], Frames]], ...] = (
    ("exchanged", "swapped", lambda pair: pair[::-1]),
    ("clinical twice", "identical", lambda pair: np.stack([pair[0], pair[0]])),
    ("dermoscopic twice", "identical", lambda pair: np.stack([pair[1], pair[1]])),
    ("clinical twice, once as JPEG 50", "identical", lambda pair: np.stack([pair[0], jpeg(50)(pair[0])])),
    ("dermoscopic twice, once as JPEG 50", "identical", lambda pair: np.stack([jpeg(50)(pair[1]), pair[1]])),
)


def share(found: Iterable[bool]) -> dict[str, Any]:
    """A share with its 95 % Wilson interval."""
    all_of = list(found)
    low, high = metrics.wilson_interval(sum(all_of), len(all_of))
    return {"of": len(all_of), "flagged": sum(all_of), "low": round(low, 4), "high": round(high, 4)}


def frames_of(pairs: Sequence[Pair], how: Preprocess) -> list[Frames]:
    """Prepared pairs [2, H, W, 3] of the lesions with both images."""
    both = [(pair.clinical, pair.dermoscopic) for pair in pairs if pair.clinical is not None]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda pair: np.stack([prepare(photo, how) for photo in pair]), both))


def real(pairs: Sequence[Frames], spec: Quality) -> dict[str, Any]:
    """What is said of images as they are."""
    found = [assess(pair, "pair", spec) for pair in pairs]
    shares = {kind: {flag: share(flag in one.flags[kind] for one in found) for flag in FLAGS} for kind in KINDS}
    return {**shares, "not_assessable": share(not one.assessable for one in found)}


def spoilt(pairs: Sequence[Frames], spec: Quality) -> list[dict[str, Any]]:
    """Each fault on one of the images, and on the pair: how many get its flag, how many are refused."""
    rows = []
    for name, flag, spoil in SPOILT:
        for place, kind in enumerate(KINDS):
            found = []
            for pair in pairs:
                changed = pair.copy()
                changed[place] = spoil(pair[place])
                found.append(assess(changed, "pair", spec))
            named = share(flag in one.flags[kind] for one in found)
            rows.append({"fault": name, "image": kind, "flag": flag, "named": named})
            rows[-1]["not_assessable"] = share(not one.assessable for one in found)
    for name, flag, change in PAIRED:
        found = [assess(change(pair), "pair", spec) for pair in pairs]
        named = share(flag in one.flags["dermoscopic"] for one in found)
        rows.append({"fault": name, "image": "both", "flag": flag, "named": named})
        rows[-1]["not_assessable"] = share(not one.assessable for one in found)
    return rows


def milliseconds(pair: Frames, spec: Quality) -> dict[str, float]:
    """What the gate costs a decision, in Python."""
    spent = []
    for _ in range(2000):
        start = time.perf_counter()
        assess(pair, "pair", spec)
        spent.append(1e3 * (time.perf_counter() - start))
    return {"p50": round(float(np.median(spent)), 3), "least": round(min(spent), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    options = parser.parse_args()
    manifest, load = open_bundle(options.bundle).manifest, os.getloadavg()[0]
    pairset, roles = load_roles(manifest.data)
    assert roles.records() == manifest.roles
    calibration, control, test = (
        frames_of(roles[role], manifest.preprocess) for role in ("calibration", "control", "test")
    )
    spec, told = fitted(calibration, control)
    out.note(told)
    result = {
        "what": "what the quality gate says of real pairs and of faults made on them",
        "data": pairset.name,
        "frame_px": [manifest.preprocess.height, manifest.preprocess.width],
        "thresholds": spec.to_json(),
        "swapped": told,
        "control": real(control, spec),
        "test": real(test, spec),
        "faults": spoilt(test, spec),
        "pair_ms": milliseconds(test[0], spec),
        "conditions": {
            "cores": len(os.sched_getaffinity(0)),
            "load_average_before": round(load, 2),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }
    files.write_atomic(RESULT, files.pretty_json(result))
    out.line(f"{RESULT.name}: {result['test']['not_assessable']} of the test role not assessable")


if __name__ == "__main__":
    main()
