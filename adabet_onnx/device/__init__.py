"""Packages with which a device scores, retrains and personalises a model; docs/device-package.md has the format."""
