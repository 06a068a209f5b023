"""Gradient rules of matrix products and Softmax."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from rule_checks import check_differences, check_torch, gradient_graph, graph_of, obstacles, values

node = helper.make_node


def check(oracle, made, feeds, wrt, constants=None, **options):
    check_torch(oracle, made, feeds, wrt, constants, **options)
    check_differences(made, feeds, wrt, constants, **options)


def operators(made, feeds, wrt, constants=None):
    """Operators of the gradient, in order."""
    graph = gradient_graph(graph_of(made, feeds, constants), wrt).graph
    return [n.op_type for n in graph.node if "/grad/" in n.name]


# MatMul

MATMULS = {
    "matrices": ((3, 4), (4, 5)),
    "tokens by a weight": ((3, 7, 4), (4, 5)),
    "more axes by a weight": ((3, 2, 7, 4), (4, 5)),
    "a weight by images": ((6, 4), (3, 4, 5)),
    "stacks": ((3, 2, 7, 4), (3, 2, 4, 5)),
    "a weight that is a stack of one": ((3, 7, 4), (1, 4, 5)),
    "a weight with more axes": ((7, 4), (1, 1, 4, 5)),
    "right broadcast": ((3, 2, 7, 4), (2, 4, 5)),
    "left broadcast": ((2, 7, 4), (3, 2, 4, 5)),
    "both broadcast": ((3, 1, 7, 4), (2, 4, 5)),
    "both broadcast, more": ((3, 1, 7, 4), (1, 2, 4, 5)),
    "vector on the right": ((3, 7, 4), (4,)),
    "matrix by vector": ((3, 4), (4,)),
    "vector on the left": ((4,), (3, 4, 5)),
    "vector by matrix": ((4,), (4, 5)),
    "vectors": ((4,), (4,)),
    "one row": ((3, 1, 4), (4, 5)),
    "one column": ((3, 7, 4), (4, 1)),
}


@pytest.mark.parametrize("wrt", [["a"], ["b"], ["a", "b"]], ids="+".join)
@pytest.mark.parametrize("case", MATMULS)
def test_matmul(case, wrt, torch_oracle):
    left, right = MATMULS[case]
    feeds = {"a": values(*left), "b": values(*right, seed=1)}
    batched = [name for name, shape in zip("ab", (left, right), strict=True) if len(shape) > 1 and shape[0] == 3]
    check(torch_oracle, node("MatMul", ["a", "b"], ["y"]), feeds, wrt, batched=batched)


def test_matmul_with_itself(torch_oracle):
    feeds = {"x": values(3, 4, 4)}
    check(torch_oracle, node("MatMul", ["x", "x"], ["y"]), feeds, ["x"])


def test_the_batch_in_two_dimensions(torch_oracle):
    """Similarities of all pairs: (N, C) by (C, N)."""
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])]
    check(torch_oracle, nodes, {"x": values(3, 4)}, ["x"])
    # (N, N, C) by a weight: the number of rows is no multiple of the batch.
    nodes = [node("Einsum", ["x", "x"], ["p"], equation="ac,bc->abc"), node("MatMul", ["p", "w"], ["y"])]
    check(torch_oracle, nodes, {"x": values(3, 4)}, ["x", "w"], {"w": values(4, 5)})


def test_a_weight_takes_one_gemm():
    feeds, constants = {"x": values(3, 7, 4)}, {"w": values(4, 5)}
    made = node("MatMul", ["x", "w"], ["y"])
    assert operators(made, feeds, ["w"], constants) == ["Reshape", "Reshape", "Gemm"]
    assert operators(made, feeds, ["x"], constants) == ["Reshape", "Gemm", "Reshape"]
    assert operators(made, {"x": values(3, 4)}, ["x", "w"], constants) == ["Gemm", "Gemm"]


def test_random_matmuls(torch_oracle):
    rng = np.random.default_rng(1)
    for trial in range(70):
        rank = [int(rng.integers(1, 5)) for _ in range(2)]
        stack = [int(rng.integers(1, 4)) for _ in range(max(rank))]
        shapes = []
        inner = int(rng.integers(1, 5))
        for side in range(2):
            lead = [d if rng.random() < 0.7 else 1 for d in stack[len(stack) - rank[side] :][: max(0, rank[side] - 2)]]
            own = [int(rng.integers(1, 5)), inner] if side == 0 else [inner, int(rng.integers(1, 5))]
            shapes.append((*lead, *(own if rank[side] > 1 else [inner])))
        feeds = {"a": values(*shapes[0]), "b": values(*shapes[1], seed=1)}
        wrt = [["a"], ["b"], ["a", "b"]][trial % 3]
        made = node("MatMul", ["a", "b"], ["y"])
        try:
            check_torch(torch_oracle, made, feeds, wrt, batched=())
        except Exception as error:
            raise AssertionError(f"{shapes}, {wrt}") from error


# Gemm

BIASES = {"none": None, "number": (), "one": (1,), "row": (5,), "row matrix": (1, 5), "column": (3, 1), "full": (3, 5)}


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("flips", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm(bias, flips, torch_oracle):
    flip_a, flip_b = flips
    feeds = {"a": values(*((4, 3) if flip_a else (3, 4))), "b": values(*((5, 4) if flip_b else (4, 5)), seed=1)}
    if BIASES[bias] is not None:
        feeds["c"] = np.asarray(values(*BIASES[bias], seed=2), np.float32)
    made = node("Gemm", list(feeds), ["y"], transA=flip_a, transB=flip_b, alpha=0.5, beta=-1.5)
    batched = [] if flip_a else ["a", *(["c"] if bias in ("column", "full") else [])]
    check(torch_oracle, made, feeds, list(feeds), batched=batched)
    for name in feeds:
        check_torch(torch_oracle, made, feeds, [name], batched=batched)


@pytest.mark.parametrize("numbers", [{}, {"alpha": 0.0}, {"beta": 0.0}, {"alpha": 2.0, "beta": 3.0}], ids=str)
def test_numbers_of_gemm(numbers, torch_oracle):
    feeds, constants = {"x": values(3, 4)}, {"w": values(5, 4, seed=1), "b": values(5, seed=2)}
    check(torch_oracle, node("Gemm", ["x", "w", "b"], ["y"], transB=1, **numbers), feeds, ["x", "w", "b"], constants)


def test_random_gemms(torch_oracle):
    rng = np.random.default_rng(2)
    for _ in range(60):
        m, k, n = (int(d) for d in rng.integers(1, 6, 3))
        flip_a, flip_b = (int(d) for d in rng.integers(0, 2, 2))
        feeds = {"a": values(*((k, m) if flip_a else (m, k))), "b": values(*((n, k) if flip_b else (k, n)), seed=1)}
        forms = [None, (1,), (n,), (1, n), (m, 1), (m, n), (1, 1)]
        form = forms[rng.integers(len(forms))]
        if form is not None:
            feeds["c"] = values(*form, seed=2)
        alpha, beta = (float(number) for number in rng.uniform(-2, 2, 2))
        made = node("Gemm", list(feeds), ["y"], transA=flip_a, transB=flip_b, alpha=alpha, beta=beta)
        wrt = [name for name in feeds if rng.random() < 0.6] or ["a"]
        try:
            check_torch(torch_oracle, made, feeds, wrt, batched=())
        except Exception as error:
            raise AssertionError(f"{(m, k, n)}, {flip_a}, {flip_b}, {form}, {wrt}") from error


# Einsum

EINSUMS = {
    "ij,jk->ik": ((3, 4), (4, 5)),
    "ij,jk": ((3, 4), (4, 5)),
    "bhid,bhjd->bhij": ((3, 2, 4, 5), (3, 2, 6, 5)),
    "bnd,dhk->bnhk": ((3, 4, 5), (5, 2, 6)),
    "bij,bij->b": ((3, 4, 5), (3, 4, 5)),
    "bi,bj->bij": ((3, 4), (3, 5)),
    "i,i->": ((4,), (4,)),
    "i,j": ((4,), (5,)),
    "bij,jk->bk": ((3, 4, 5), (5, 6)),  # i is summed in one operand alone
    "bi,jk->b": ((3, 4), (5, 2)),
    "bij->bji": ((3, 4, 5),),
    "bij->b": ((3, 4, 5),),
    "bij->": ((3, 4, 5),),
    "ba": ((3, 4),),
    "bij->jbi": ((3, 4, 5),),
    " b i , i -> b ": ((3, 4), (4,)),
    "...ij,...jk->...ik": ((3, 2, 4, 5), (3, 2, 5, 6)),
    "...k,kd->...d": ((3, 2, 4), (4, 5)),
    "...k,kd": ((3, 2, 4), (4, 5)),
    "a...d,...d->a...": ((3, 2, 4, 5), (2, 4, 5)),
    "BI,IJ->BJ": ((3, 4), (4, 5)),
    "bi,ij,jk->bk": ((3, 4), (4, 5), (5, 2)),
    "bi,ci,di->bcd": ((3, 4), (5, 4), (2, 4)),
    "bn,bnk,bk->b": ((3, 4), (3, 4, 5), (3, 5)),
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum(equation, torch_oracle):
    shapes = EINSUMS[equation]
    feeds = {name: values(*shape, seed=i) for i, (name, shape) in enumerate(zip("xvw", shapes, strict=False))}
    made = node("Einsum", list(feeds), ["y"], equation=equation)
    batched = [name for name, shape in zip("xvw", shapes, strict=False) if shape[0] == 3]
    check(torch_oracle, made, feeds, list(feeds), batched=batched)
    for name in feeds:
        check_torch(torch_oracle, made, feeds, [name], batched=batched)


@pytest.mark.parametrize(
    ("equation", "shapes", "reason"),
    [
        ("ii->i", [(3, 3)], "has an index twice in one operand of the equation 'ii->i'"),
        ("bii->b", [(3, 4, 4)], "has an index twice in one operand"),
        ("...i,ij->j", [(3, 2, 4), (4, 5)], "has an ellipsis in the operands and none in the output"),
        ("b...,...->b", [(3, 2, 4), (2, 4)], "has an ellipsis in the operands and none in the output"),
        ("ij,jk->ik", [(3, 1), (4, 5)], "broadcasts an index of the equation 'ij,jk->ik' (1 and 4)"),
        ("...i,...i->...i", [(3, 2, 4), (3, 1, 4)], "broadcasts an index"),
        ("aB,Bc", [(3, 4), (4, 5)], "has no output in its equation 'aB,Bc' of letters in both cases"),
    ],
)
def test_einsum_refuses(equation, shapes, reason):
    feeds = {name: values(*shape) for name, shape in zip("xv", shapes, strict=False)}
    made = node("Einsum", list(feeds), ["y"], equation=equation)
    assert reason in obstacles(graph_of(made, feeds, batched=()), ["x"])[0]


def test_random_einsums(torch_oracle):
    rng = np.random.default_rng(3)
    extents = dict(zip("abcdef", (2, 3, 4, 1, 5, 2), strict=True))
    for trial in range(70):
        count = int(rng.integers(1, 4))
        terms = ["".join(rng.permutation(list("abcdef"))[: rng.integers(1, 4)]) for _ in range(count)]
        together = sorted(set("".join(terms)))
        output = "".join(rng.permutation(together)[: rng.integers(0, min(4, len(together)) + 1)])
        equation = ",".join(terms) + ("" if trial % 5 == 0 else f"->{output}")
        names = "xvw"[:count]
        feeds = {name: values(*map(extents.get, term), seed=ord(name)) for name, term in zip(names, terms, strict=True)}
        wrt = [name for name in feeds if rng.random() < 0.7] or ["x"]
        try:
            check_torch(torch_oracle, node("Einsum", list(feeds), ["y"], equation=equation), feeds, wrt, batched=())
        except Exception as error:
            raise AssertionError(f"{equation}, {wrt}") from error


# Softmax


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("axis", [None, 1, 2, -2, 0])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_softmax(op_type, axis, opset, torch_oracle):
    made = node(op_type, ["x"], ["y"], **({} if axis is None else {"axis": axis}))
    feeds = {"x": 3 * values(3, 4, 5)}
    check_torch(torch_oracle, made, feeds, ["x"], opset=opset)
    if opset >= 13:  # the reference evaluator reads the axis so in all opsets
        check_differences(made, feeds, ["x"], opset=opset)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_large_numbers(op_type, torch_oracle):
    x = values(3, 4)
    x[:, 1] += 200
    check_torch(torch_oracle, node(op_type, ["x"], ["y"]), {"x": x}, ["x"])


# Together


@pytest.mark.parametrize("trained", [["x"], ["wq"], ["wk"], ["wv"], ["x", "wq", "wk", "wv", "wo"]], ids="+".join)
def test_attention(trained, torch_oracle):
    tokens, heads, width = 7, 2, 4
    size = heads * width
    shape = {"split": np.array([0, tokens, heads, width]), "merged": np.array([0, tokens, size])}
    nodes = []
    for name in "qkv":
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            node("MatMul", ["x", f"w{name}"], [f"{name}0"]),
            node("Reshape", [f"{name}0", "split"], [f"{name}1"]),
            node("Transpose", [f"{name}1"], [name], perm=perm),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["scores"]),
        node("Mul", ["scores", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["weights"]),
        node("MatMul", ["weights", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "merged"], ["flat"]),
        node("MatMul", ["flat", "wo"], ["y"]),
    ]
    constants = {f"w{name}": values(size, size, seed=i) for i, name in enumerate("qkvo")}
    constants |= {**shape, "scale": np.array(width**-0.5, np.float32)}
    check(torch_oracle, nodes, {"x": values(3, tokens, size)}, trained, constants)
