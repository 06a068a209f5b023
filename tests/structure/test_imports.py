"""The order of imports holds, and each violation is detected in a small package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from architecture import DOORS, LATE, LAZY, ORDER, Package, read
from conftest import ROOT

import adabet_onnx

TWO = ("high", "low")


@pytest.fixture(scope="module")
def package() -> Package:
    return read(Path(adabet_onnx.__file__).parent)


def test_nothing_imports_upward(package):
    assert package.upward(ORDER) == []


def test_no_modules_import_each_other(package):
    assert package.cycles() == []


def test_only_the_doors_touch_their_libraries(package):
    assert package.beside_doors(DOORS) == []
    assert package.unreadable(LAZY) == []


def test_functions_import_only_what_is_slow_to_import(package):
    assert package.late(LATE, LAZY) == []


def test_what_is_named_is_there(package):
    assert package.unplaced(ORDER) == []
    assert {place for places in DOORS.values() for place in places} <= set(package.files.values())
    for library, places in DOORS.items():
        used = {package.files[made.source] for made in package.imports if made.of(library)}
        assert used == places, f"{library} is touched by {used}"


def test_contributing_quotes_the_order():
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    quoted = re.search(r"Who may import whom, from the top: (.+?)\. Nothing imports upward", text)
    assert quoted is not None
    assert tuple(re.findall(r"`(\w+)`", quoted[1])) == ORDER


def test_contributing_names_the_doors():
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    for library, places in DOORS.items():
        for place in places:
            assert f"`{place}`" in text, place
        assert library in text, library


# --- planted ---------------------------------------------------------------------------------------------------------


def planted(folder: Path, **sources: str) -> Package:
    """A package ``house`` with these modules; ``high_top`` is ``house/high/top.py``."""
    for name, source in {"__init__": "", "high___init__": "", "low___init__": "", **sources}.items():
        path = folder / "house" / (name.replace("_", "/", 1) if not name.startswith("__") else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(source)
    return read(folder / "house")


UPWARD = {
    "plain": "import house.high.top",
    "plain, renamed": "import house.high.top as top",
    "the room alone": "import house.high",
    "from the package": "from house import high",
    "from the room": "from house.high import top",
    "from the module": "from house.high.top import number",
    "everything": "from house.high.top import *",
    "relative": "from ..high.top import number",
    "relative, the room": "from .. import high",
    "the public names": "from .. import number",
    "the public names, plain": "import house",
    "in a function": "def f():\n    from ..high.top import number\n    return number",
    "in a method": "class C:\n    def f(self):\n        import house.high.top\n        return house.high.top.number",
    "in a function in a function": "def f():\n    def g():\n        from house.high import top\n        return top",
    "type-only": "import typing\nif typing.TYPE_CHECKING:\n    from ..high.top import Number",
    "in a try": "try:\n    from ..high import top\nexcept ImportError:\n    top = None",
    "import_module": "import importlib\ntop = importlib.import_module('house.high.top')",
    "import_module, renamed": "from importlib import import_module as get\ntop = get('house.high.top')",
    "import_module, relative": "import importlib\ntop = importlib.import_module('..high.top', __package__)",
    "import_module, of a package": "import importlib\ntop = importlib.import_module('.high.top', package='house')",
    "import_module, filled in": "import importlib\ntop = importlib.import_module(f'house.high.{name}')",
    "__import__": "top = __import__('house.high.top')",
    "in a lambda": "top = lambda: __import__('house.high.top').high.top",
}


@pytest.mark.parametrize("source", UPWARD.values(), ids=UPWARD)
def test_an_upward_import_is_found(source, tmp_path):
    made = planted(tmp_path, high_top="number = 1", low_cellar=source)
    [found] = made.upward(TWO)
    assert re.fullmatch(r"low/cellar\.py:\d+ imports house(\.high(\.top)?)?, which is above it", found)


@pytest.mark.parametrize(
    "source",
    [
        "from ..low.cellar import number",
        "import house.low.cellar",
        "def f():\n    from house.low import cellar\n    return cellar",
        "from . import side",
        "import high",  # another package with the name of one of our folders
        "from high.top import number",
        "text = 'import house.high.top'",
    ],
)
def test_a_downward_import_is_none(source, tmp_path):
    made = planted(tmp_path, high_top=source, high_side="", low_cellar="number = 1")
    assert made.upward(TWO) == made.cycles() == made.beside_doors({"ripser": {"low/door.py"}}) == []


def test_a_room_without_a_place_is_found(tmp_path):
    assert planted(tmp_path, attic_box="").upward(TWO) == ["attic has no place in the order"]


def test_a_place_without_a_room_is_found(tmp_path):
    assert planted(tmp_path).unplaced((*TWO, "attic")) == ["attic"]


CIRCLES = {
    "at the top": ("from .two import b", "from .one import a"),
    "in a function": ("from .two import b", "def f():\n    from .one import a\n    return a"),
    "in functions": ("def f():\n    from . import two", "def f():\n    from house.low import one"),
    "type-only": ("from .two import b", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .one import A"),
    "by name": ("from .two import b", "import importlib\ndef f():\n    importlib.import_module('house.low.one')"),
}


@pytest.mark.parametrize(("one", "two"), CIRCLES.values(), ids=CIRCLES)
def test_a_circle_of_two_is_found(one, two, tmp_path):
    made = planted(tmp_path, low_one=one, low_two=two)
    assert made.upward(TWO) == []
    assert made.cycles() == ["house.low.one and house.low.two import each other"]


def test_longer_circles_are_found_each(tmp_path):
    sources = {"low_a": "from . import b", "low_b": "from . import c", "low_c": "from . import a, d", "low_d": ""}
    sources |= {"high_a": "from . import b\nfrom house.low import a", "high_b": "def f():\n    from . import a"}
    assert sorted(planted(tmp_path, **sources).cycles()) == [
        "house.high.a and house.high.b import each other",
        "house.low.a and house.low.b and house.low.c import each other",
    ]


def test_a_module_that_imports_from_its_package_is_a_circle_where_the_package_passes_it_on(tmp_path):
    sources = {"low___init__": "from .one import a", "low_one": "from . import a", "low_two": "from . import one"}
    assert planted(tmp_path, **sources).cycles() == ["house.low and house.low.one import each other"]


def test_names_passed_on_by_a_package_are_no_circle(tmp_path):
    sources = {"low___init__": "from .one import a", "low_one": "from . import two", "low_two": ""}
    assert planted(tmp_path, **sources).cycles() == []


BESIDE = {
    "plain": "import ripser",
    "of a part": "from ripser.ripser import ripser",
    "in a function": "def f():\n    from ripser import ripser\n    return ripser",
    "renamed": "import ripser as r",
    "by name": "import importlib\nimportlib.import_module('ripser')",
    "by a name that begins so": "import importlib\nimportlib.import_module(f'ripser.{part}')",
    "__import__": "__import__('ripser')",
}


@pytest.mark.parametrize("source", BESIDE.values(), ids=BESIDE)
def test_a_library_beside_its_door_is_found(source, tmp_path):
    made = planted(tmp_path, low_door="import ripser", low_other=source, high_top="text = 'import ripser'")
    [found] = made.beside_doors({"ripser": {"low/door.py"}})
    assert re.fullmatch(r"low/other\.py:\d imports ripser(\.ripser(\.ripser)?)?, which only low/door\.py may", found)


@pytest.mark.parametrize("source", ["import onnxruntime.training", "from onnxruntime import training"])
def test_a_part_of_a_library_has_a_door_of_its_own(source, tmp_path):
    doors = {"onnxruntime": {"low/door.py", "low/training.py"}, "onnxruntime.training": {"low/training.py"}}
    made = planted(tmp_path, low_door=f"import onnxruntime\n{source}", low_training=source)
    assert made.beside_doors(doors) == ["low/door.py:2 imports onnxruntime.training, which only low/training.py may"]


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    from . import two",
        "class C:\n    def f(self):\n        import house.low.two",
        "f = lambda: __import__('house.low.two')",
        "async def f():\n    def g():\n        from house.low import two",
    ],
)
def test_an_import_inside_a_function_is_found(source, tmp_path):
    sources = {
        "low_one": source,
        "low_two": "class C:\n    from . import three",
        "low_three": "if True:\n    import json",
    }
    lazy = "def f():\n    import scipy.stats\n    import house.low.two"
    [found] = planted(tmp_path, **sources, high_top=lazy).late({"scipy"}, ["high"])
    assert re.fullmatch(r"low/one\.py:\d imports house\.low\.two inside a function", found)


@pytest.mark.parametrize(
    "source",
    ["import importlib\nimportlib.import_module(name)", "__import__('ho' + 'use')", "__import__(f'{name}.high')"],
)
def test_a_computed_name_is_found(source, tmp_path):
    [found] = planted(tmp_path, low_one=source, high_top=source).unreadable({"high"})
    assert re.fullmatch(r"low/one\.py:\d imports a module by a computed name", found)
