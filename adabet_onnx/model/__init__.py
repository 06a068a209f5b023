"""Models: opening them, their layers, and the repairs that make them trainable."""
