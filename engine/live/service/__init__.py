"""The process around the loop: configuration, health, metrics, logs."""
