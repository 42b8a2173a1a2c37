"""What a comparison holds equal, and how it is set from text."""
