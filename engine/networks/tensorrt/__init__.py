"""Networks as TensorRT plans on an NVIDIA GPU."""
