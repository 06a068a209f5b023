"""Pretrained networks and new domains: their locations, and checks of the results."""
