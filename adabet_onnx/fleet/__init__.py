"""A fleet of devices: each scores and trains on data of its own, a server combines what they send."""
