"""Data: arrays, folders of images, and the way from them to what a model takes in."""
