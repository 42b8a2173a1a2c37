"""Feature computation by a backbone: passes, fidelity, streamed backward and caches."""
