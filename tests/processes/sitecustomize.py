"""How the Python processes begin that tests start (it lies on their PYTHONPATH): torch is hidden from them.

onnxruntime-training imports torch wherever it is installed, as it is for the tests and seldom for users; that takes
longer than most of what is tested there.
"""

from importlib.machinery import PathFinder

_find_spec = PathFinder.find_spec


def _hide(name, path=None, target=None):
    return None if name == "torch" else _find_spec(name, path, target)


PathFinder.find_spec = staticmethod(_hide)
