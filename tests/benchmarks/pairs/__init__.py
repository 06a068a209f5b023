"""Pretrained networks and new domains: where they are, and checks of what comes out."""
