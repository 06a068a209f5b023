"""Federated training of a fleet: each device scores and trains on its own data, a server combines the results."""
