"""What `edgeskin explain` found: where in the images the evidence of a class lies, and how far that may be believed."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.manifest import Mode
from edgeskin.spec.quality import Flag
from edgeskin.spec.result import Estimate

Kind = Literal["clinical", "dermoscopic"]
KINDS: tuple[Kind, ...] = ("clinical", "dermoscopic")
Method = Literal["hirescam", "gradcam"]
METHODS: tuple[Method, ...] = ("hirescam", "gradcam")
# Chosen on the control role of MILK10k: their maps pass the deletion test, those of Grad-CAM at the last stage are not
# shown to be better than a disc in the middle. benchmarks/results/milk10k-explained-control*.json has the figures.
METHOD: Method = "hirescam"
STAGE = -2  # of the encoder's feature pyramid: the last but one, whose maps are twice as fine
CAUTION: Literal[
    "Saliency shows what the network's answer hangs on. It does not show that the answer is right, nor why."
] = "Saliency shows what the network's answer hangs on. It does not show that the answer is right, nor why."

FP32 = "Maps are of the network in FP32, as it was trained; a bundle in INT8 may answer otherwise."
UNASKED = "Whether images are exchanged was not looked for: that takes a bundle whose quality gate can tell (--bundle)."

Base64 = Field(default="", pattern=r"^[A-Za-z0-9+/]*={0,2}$", repr=False)


class Picture(Spec):
    """One image as base64 of JPEG: the frame that the network saw, and the same under its saliency. "" = left out."""

    frame: str = Base64
    saliency: str = Base64


class Explanation(Spec):
    """One lesion. `share`: how much of the positive saliency lies in each image; null where nothing speaks for it."""

    lesion: str  # its id, or 16 hex digits of its SHA-256 where the lesion is one of a role
    mode: Mode
    task: str
    predicted: str  # the most probable class
    explained: str  # the class whose evidence is shown
    probability: float = Field(ge=0, le=1)  # of the explained class, fused and calibrated
    truth: str | None = None
    share: dict[Kind, float] | None
    quality: dict[Kind, tuple[Flag, ...]]
    assessable: bool  # no fault was found for which the program gives no answer
    unasked: tuple[Flag, ...]  # such faults that were not looked for: exchanged images, without a bundle that can tell
    file: str = ""  # picture that was written
    pictures: dict[Kind, Picture] = Field(default_factory=dict, repr=False)


class Deletion(Spec):
    """Deletion test: fall of the probability when a share of the pixels of every image takes that image's mean colour.

    The pixels are the most salient ones; those of `patches` random maps of the same grain (their mean); or a disc in
    the middle, where most lesions lie. The last two are differences on the same lesions, 95 % by bootstrap.
    """

    lesions: int = Field(ge=1)
    share: float = Field(gt=0, le=1)
    patches: int = Field(ge=1)
    probability: float  # mean, of the whole images
    salient: Estimate
    random: Estimate
    middle: Estimate
    over_random: Estimate  # salient - random
    over_middle: Estimate  # salient - middle


class Randomised(Spec):
    """Sanity check: rank correlation of the maps with those of networks of the same form with random weights.

    Both are near 0 where the maps come from what was learned, not from edges in the image or the network's form.
    """

    lesions: int = Field(ge=1)
    networks: int = Field(ge=1)
    correlation: Estimate  # Spearman, mean over networks and images; 95 % by bootstrap over lesions
    magnitude: Estimate  # mean of its absolute values: likeness and its opposite do not make up for each other


class Explained(Spec):
    """Explanations by one network with the checks of its maps (edgeskin-explained/1)."""

    format: Literal["edgeskin-explained/1"] = "edgeskin-explained/1"
    created: str
    run: str  # name of its folder; of a network fine-tuned under quantisation run/qat-...
    checkpoint_sha256: str  # of checkpoint.json, which a bundle names as its origin
    backbone: str
    method: Method
    stage: str  # module whose features are read
    grid: tuple[int, int]  # rows and columns of a map before it is enlarged
    precision: Literal["fp32"] = "fp32"  # of the network that is explained, whatever a bundle of it runs in
    score: str  # what is explained, in words
    task: str
    chosen: str = ""  # class whose maps are shown and checked; "" = the most probable one of each lesion
    bundle: str = ""  # name of the one whose quality gate judged the images; "" = thresholds by default
    data: str = ""
    role: str = ""
    rule: str = ""  # how the lesions were chosen
    phantom: bool
    caution: Literal[
        "Saliency shows what the network's answer hangs on. It does not show that the answer is right, nor why."
    ] = CAUTION
    lesions: tuple[Explanation, ...]
    failed: dict[str, str] = Field(default_factory=dict)  # lesion -> why it could not be explained
    deletion: Deletion | None = None
    randomised: Randomised | None = None
    versions: dict[str, str]

    def bare(self) -> "Explained":
        """The same without any image."""
        return self.model_copy(
            update={"lesions": tuple(one.model_copy(update={"pictures": {}}) for one in self.lesions)}
        )
