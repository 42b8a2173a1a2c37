"""Clips through a backbone: passes, fidelity, streamed backward and caches."""
