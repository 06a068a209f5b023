"""Packages for scoring, retraining and personalising a model on a device; docs/device-package.md defines the format."""
