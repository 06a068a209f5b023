"""Trainability checks: by which backend, after which repairs and with which loss, or what prevents training."""
