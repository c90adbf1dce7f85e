"""TensorRT plans of the graphs."""
