"""Fitting of a linear head to its inputs: in closed form, without backpropagation through the network."""
