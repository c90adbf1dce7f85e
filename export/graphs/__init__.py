"""ONNX graphs of the networks and of the whole step."""
