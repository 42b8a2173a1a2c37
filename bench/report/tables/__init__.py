"""Tables of a report, as cells and as text."""
