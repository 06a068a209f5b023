"""Scoring: how much of a batch's shape each layer keeps, by forward passes alone."""
