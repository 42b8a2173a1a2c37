"""Peak memory: the storage tracker and the meters of training steps and inference."""
