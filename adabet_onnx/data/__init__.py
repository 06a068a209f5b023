"""Data: arrays, image folders, and their conversion to model inputs."""
