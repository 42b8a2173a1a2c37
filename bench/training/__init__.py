"""Training of detectors, checkpoints, and inference on videos."""
