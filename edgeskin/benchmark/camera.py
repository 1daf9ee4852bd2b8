"""Camera frames to ask with: photo-like, every one different, the same again for the same number."""

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
_MARGIN = 64  # how far the view wanders, in pixels
_NOISE = 16  # sensor noise 0..15


def _scene(height: int, width: int, generator: np.random.Generator, *, zoom: float) -> Frame:
    """Skin with uneven light, a lesion with an irregular border and texture, and hairs: uint8 [height, width, 3]."""
    y = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / height
    x = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / height
    turn, phase, frequency = generator.uniform(0, 2 * np.pi, 3)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    border = 0.16 * zoom * (1 + 0.14 * np.sin(3 * angle + turn) + 0.07 * np.sin(8 * angle + phase))
    inside = 1 / (1 + np.exp((radius - border) * 140))
    texture = np.sin(x * 160 / zoom + frequency) * np.sin(y * 170 / zoom + turn)
    light = 1 - 0.35 * radius**2 + 0.06 * x
    skin = np.array([214, 170, 148], np.float32)
    lesion = np.array([104, 66, 52], np.float32)
    image = (skin + (lesion - skin) * inside[..., None]) * light[..., None]
    image += (texture * (4 + 14 * inside))[..., None]
    hairs = np.zeros((height, width), bool)
    for slope, offset in zip(generator.uniform(-3, 3, 12), generator.uniform(-0.6, 0.6, 12), strict=True):
        line = np.float32(slope) * x + np.float32(offset)
        hairs |= np.abs(y - line) < np.float32(1.5 / height * np.hypot(1, slope))
    image[hairs] *= 0.3
    return np.asarray(np.clip(image, 0, 255 - _NOISE), np.uint8)


class Camera:
    """A stand-in for the two cameras of an examination.

    The scene is drawn once; each number gives another view of it with other noise, for little time, so that the
    timed queries are not separated by long drawing.

    >>> camera = Camera(64, 96)
    >>> first, again, other = camera.pair(0), camera.pair(0), camera.pair(1)
    >>> first[0].shape, bool((first[1] == again[1]).all()), bool((first[1] == other[1]).all())
    ((64, 96, 3), True, False)
    """

    def __init__(self, height: int, width: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.height, self.width, self.seed = height, width, seed
        size = (height + _MARGIN, width + _MARGIN)
        self._scenes = [_scene(*size, generator, zoom=zoom) for zoom in (1.0, 2.2)]  # clinical, dermoscopic
        self._noise = generator.integers(0, _NOISE, (*size, 3), np.uint8)

    def pair(self, number: int) -> tuple[Frame, Frame]:
        """The clinical and the dermoscopic frame of a query: uint8 RGB [height, width, 3] each."""
        generator = np.random.default_rng((self.seed, number))
        clinical, dermoscopic = (self._view(scene, generator) for scene in self._scenes)
        return clinical, dermoscopic

    def _view(self, scene: Frame, generator: np.random.Generator) -> Frame:
        top, left, noise_top, noise_left = generator.integers(0, _MARGIN, 4)
        view = scene[top : top + self.height, left : left + self.width]
        noise = self._noise[noise_top : noise_top + self.height, noise_left : noise_left + self.width]
        return np.asarray(view + noise)
