"""Packages for devices: what is read of them, what is chosen with them, and what comes back from them."""
