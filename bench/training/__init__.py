"""How a detector is trained, resumed and applied to videos."""
