"""A linear head fitted to its inputs: in closed form, without a gradient through the network."""
