"""Export recipe: how a checkpoint becomes a model file for a target (export/*.toml)."""

from typing import Literal

from pydantic import Field, model_validator

from edgeskin.spec.base import Spec
from edgeskin.spec.gate import GateSpec

Precision = Literal["fp32", "fp16", "int8"]  # fp16: target tensorrt alone
TargetName = Literal["openvino", "onnxruntime", "tensorrt"]


class Recipe(Spec):
    """One (target, precision).

    `quantizer`: "nncf" is NNCF's, for target openvino; "qdq" our own, which writes explicit Q/DQ ONNX; "modelopt" is
    NVIDIA Model Optimizer's, for target tensorrt.
    """

    name: str = Field(min_length=1)
    target: TargetName
    precision: Precision
    note: str = ""
    opset: int = Field(default=20, ge=17, le=22)
    quantizer: Literal["none", "nncf", "qdq", "modelopt"] = "none"
    calibration_pairs: int = Field(default=0, ge=0)
    preset: Literal["performance", "mixed"] = "performance"  # nncf: symmetric, or asymmetric activations
    calibrator: Literal["minmax", "entropy", "percentile"] = "minmax"  # qdq; modelopt: no percentile
    # qdq: "uint8" with zero point 128 (0 after ReLU), which x86 computes fastest; "int8" with zero point 0 everywhere,
    # the only form that TensorRT takes.
    activations: Literal["uint8", "int8"] = "uint8"
    # Share of the calibration pairs that enter once more with a black clinical frame: a missing photograph then stays
    # within the ranges.
    blank_clinical: float = Field(default=0.05, ge=0, le=1)
    bias_correction: bool = False  # mends the mean error of each layer's output
    smooth_quant: bool = False  # nncf, for Transformers: moves outliers from activations into weights
    keep_fp32: tuple[str, ...] = ()  # regular expressions of node names that stay in floating point
    # For what is not INT8 (OpenVINO). "auto": f32, or bf16 on a processor where `edgeskin tune` measured it as faster.
    inference_precision: Literal["f32", "bf16", "default", "auto"] = "f32"
    # Least share of the multiply-accumulates that the compiled graph must run in INT8, or the build fails.
    int8_macs_floor: float = Field(default=0.0, ge=0, le=1)
    gate: GateSpec | None = None  # without one an INT8 bundle is written only with --allow-ungated

    @property
    def precision_hint(self) -> str:
        """For a session: what the recipe fixes; "f32" where it leaves the choice to a tuning."""
        return "f32" if self.inference_precision == "auto" else self.inference_precision

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if (self.precision == "int8") != (self.quantizer != "none"):
            raise ValueError("precision int8 needs a quantizer, fp16 or fp32 needs quantizer 'none'")
        if self.quantizer == "nncf" and self.target != "openvino":
            raise ValueError("quantizer 'nncf' is for target openvino")
        if self.precision == "int8" and self.calibration_pairs < 1:
            raise ValueError("precision int8 needs calibration_pairs >= 1")
        if self.quantizer == "modelopt" and self.target != "tensorrt":
            raise ValueError("quantizer 'modelopt' is for target tensorrt")
        if self.quantizer == "modelopt" and self.calibrator == "percentile":
            raise ValueError("quantizer 'modelopt' takes calibrator minmax or entropy")
        if self.quantizer not in ("qdq", "modelopt") and self.calibrator != "minmax":
            raise ValueError("calibrator is a choice of quantizer 'modelopt' or 'qdq'; nncf takes minmax")
        if self.quantizer != "nncf" and (self.preset != "performance" or self.smooth_quant):
            raise ValueError("preset and smooth_quant are choices of quantizer 'nncf'")
        if self.quantizer not in ("qdq", "modelopt") and self.activations != "uint8":
            raise ValueError("activations is a choice of quantizer 'qdq'; nncf has its own, modelopt int8")
        if self.precision == "fp16" and self.target != "tensorrt":
            raise ValueError("precision fp16 is for target tensorrt")
        if self.target == "tensorrt" and self.precision == "int8" and self.activations != "int8":
            raise ValueError("target tensorrt takes activations 'int8' alone")
        if self.precision != "int8" and (self.gate is not None or self.int8_macs_floor):
            raise ValueError("gate and int8_macs_floor are for precision int8")
        return self
