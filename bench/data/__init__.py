"""Video frames, clips and windows."""
