"""From a strongly typed ONNX graph to a TensorRT engine."""
