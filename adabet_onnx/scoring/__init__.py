"""Scoring: how much of a batch's topology each layer keeps, measured with forward passes only."""
