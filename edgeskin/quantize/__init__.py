"""Post-training quantisation to INT8: calibration frames in, a quantised model out."""
