"""The four roles end to end, on real text with real models."""
