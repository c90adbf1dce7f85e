"""Hand-set weights by validation and intervals by calibration, on emulated frames."""
