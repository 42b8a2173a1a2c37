"""Fixed settings of a comparison, and how they are set from text."""
