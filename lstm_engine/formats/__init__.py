"""Readers: one per format, bytes to a plain description; no numerics, nothing executed."""
