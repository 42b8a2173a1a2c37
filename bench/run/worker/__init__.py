"""One run in its own process, and the supervisor of that process."""
