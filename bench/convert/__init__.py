"""``python -m bench.convert``: published weights in Python packages, converted to checkpoints."""
