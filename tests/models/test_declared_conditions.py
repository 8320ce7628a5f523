"""What a condition may be, what a denoiser declares, and a denoiser called plainly with its conditions."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import problems

import restart_sampling as rs
from restart_sampling.models.conditions import CLASS, DTYPES, placeholders
from restart_sampling.models.parameterization import edm

SHAPE = (2, 3)


def fn(x, sigma, **conditions):
    return x * sum((value.flatten(1).sum(1).view(-1, 1, 1) for value in conditions.values()), torch.ones(1))


def test_a_condition_has_its_numbers_as_tensors():
    condition = rs.Condition([3, 4], torch.int64, null=7, default=2)
    assert condition.shape == (3, 4) and condition.dtype == torch.int64 and not condition.shared
    assert torch.equal(condition.null, torch.full((3, 4), 7)) and torch.equal(condition.default, torch.full((3, 4), 2))
    assert rs.Condition((2,), torch.bfloat16, null=torch.tensor([1.0, 2.0])).null.dtype == torch.bfloat16
    assert rs.Condition(()).null is None and rs.Condition((), null="same").null == "same"
    assert rs.Condition((), null=np.float32(0.5)).null.item() == 0.5
    assert rs.Condition((), torch.bool, null=False).null.dtype == torch.bool
    assert str(condition) == "int64 [3, 4]" and repr(condition) == "Condition(int64 [3, 4], with a null)"
    assert repr(rs.Condition((), shared=True)) == "Condition(float32 [], shared)"
    assert not rs.Condition((), null=torch.ones((), requires_grad=True)).null.requires_grad
    assert torch.equal(copy.deepcopy(condition).null, condition.null)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_from_its_own_kind(dtype):
    value = torch.ones(2, 3, dtype=dtype)
    found = rs.Condition((3,), dtype).read("c", value, 2)
    assert found.dtype == dtype and torch.equal(found, value)
    other = torch.int64 if dtype == torch.bool or dtype.is_floating_point else torch.float32
    with pytest.raises(rs.RestartError, match="condition 'c' must be"):
        rs.Condition((3,), dtype).read("c", value.to(other), 2)


def test_defaults_are_one_for_all_or_one_for_each_class():
    one = rs.Condition((2,), default=torch.tensor([1.0, 2.0]))
    assert one.table is None and one.constant.tolist() == [1, 2]
    each = rs.Condition((2,), default=torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert each.constant is None and each.table.shape == (3, 2)
    assert rs.Condition((), default=torch.arange(3.0)).table.shape == (3,)
    assert rs.Condition((2,)).table is rs.Condition((2,)).constant is None


WRONG = {
    "size": (lambda: rs.Condition((0, 3)), "shape of a condition must be positive integers"),
    "shape": (lambda: rs.Condition(3), r"got 3"),
    "dtype": (lambda: rs.Condition((3,), torch.complex64), "dtype of a condition must be torch.float32, float64"),
    "dtype_name": (lambda: rs.Condition((3,), "float32"), "got 'float32'"),
    "null_shape": (lambda: rs.Condition((3,), null=torch.zeros(1)), r"null of a condition of float32 \[3\] must have"),
    "null_kind": (lambda: rs.Condition((3,), torch.int64, null=0.5), r"must be of its kind, got float64 \[\]"),
    "null_text": (lambda: rs.Condition((3,), null="zero"), "a tensor, 'same' or None, got 'zero'"),
    "null_nan": (lambda: rs.Condition((3,), null=float("nan")), "holds NaN"),
    "null_large": (lambda: rs.Condition((3,), torch.uint8, null=256), "outside of uint8"),
    "null_of_shared": (lambda: rs.Condition((3,), null=0.0, shared=True), "leave its null out"),
    "shared": (lambda: rs.Condition((3,), shared=1), "shared must be True or False"),
    "default": (lambda: rs.Condition((3,), default=torch.zeros(2, 4)), "default of a condition of float32"),
    "default_of_shared": (lambda: rs.Condition((3,), default=torch.zeros(2, 3), shared=True), "must have its shape"),
    "no_dict": (lambda: rs.Denoiser.from_function(fn, SHAPE, conditions=[rs.Condition(())]), "must be a dict"),
    "no_condition": (lambda: rs.Denoiser.from_function(fn, SHAPE, conditions={"a": (3,)}), "must be an rs.Condition"),
    "name": (
        lambda: rs.Denoiser.from_function(fn, SHAPE, conditions={"a b": rs.Condition(())}),
        "must be one of Python",
    ),
    "taken": (lambda: rs.Denoiser.from_function(fn, SHAPE, conditions={"sigma": rs.Condition(())}), "got 'sigma'"),
    "classes": (
        lambda: rs.Denoiser.from_function(fn, SHAPE, label_dim=4, conditions={CLASS: rs.Condition((3,))}),
        "condition 'class_labels' is for 3 classes, and the denoiser has 4",
    ),
    "tables": (
        lambda: rs.Denoiser.from_function(
            fn, SHAPE, conditions={n: rs.Condition((), default=torch.zeros(n_)) for n, n_ in (("a", 3), ("b", 2))}
        ),
        "condition 'b' is for 2 classes, and the denoiser has 3",
    ),
    "class_ids": (
        lambda: rs.Denoiser.from_function(fn, SHAPE, conditions={CLASS: rs.Condition((3,), torch.int64)}),
        "'class_labels' must be float32",
    ),
    "class_default": (
        lambda: rs.Denoiser.from_function(fn, SHAPE, conditions={CLASS: rs.Condition((3,), default=1.0)}),
        "without a default",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_refused_with_a_sentence(name):
    make, message = WRONG[name]
    with pytest.raises(rs.RestartError, match=message):
        make()


def test_the_class_is_a_condition():
    denoiser = rs.Denoiser.from_function(fn, SHAPE, label_dim=3, conditions={"b": rs.Condition((4,))})
    assert list(denoiser.conditions) == [CLASS, "b"]
    labels = denoiser.conditions[CLASS]
    assert (labels.shape, labels.dtype, labels.null.tolist()) == ((3,), torch.float32, [0, 0, 0])
    own = rs.Denoiser.from_function(
        fn, SHAPE, conditions={"b": rs.Condition((4,)), CLASS: rs.Condition((5,), null=torch.full((5,), 0.2))}
    )
    assert list(own.conditions) == [CLASS, "b"] and own.label_dim == 5 and own.conditions[CLASS].null[0] == 0.2
    again = replace(own, name="again")
    assert again.label_dim == 5 and again.conditions == own.conditions
    assert rs.Denoiser.from_function(fn, SHAPE).conditions == {}
    assert "3 classes, b float32 [4]" in repr(denoiser)


def test_a_raw_network_is_given_the_class_third_and_the_others_by_name():
    seen = []

    def network(net_in, c_noise, class_labels, **others):
        seen.append((class_labels, others))
        return net_in

    conditions = {"b": rs.Condition((2,), torch.int64)}
    x, b = torch.zeros(4, *SHAPE), torch.ones(4, 2, dtype=torch.int64)
    for label_dim, labels in ((0, None), (3, torch.eye(3)[[0, 1, 2, 0]])):
        denoiser = rs.Denoiser(network, edm(0.5), SHAPE, label_dim, conditions=conditions)
        denoiser(x, 1.0, labels, b=b)
        given, others = seen.pop()
        assert given is labels and others.keys() == {"b"} and torch.equal(others["b"], b)
    plain = rs.Denoiser(lambda net_in, c_noise, class_labels: net_in, edm(0.5), SHAPE)
    assert plain(x, 1.0).shape == x.shape  # a network of three arguments, as all of today's


def test_a_denoiser_is_called_with_its_conditions():
    denoiser = rs.Denoiser.from_function(
        problems.conditional_gaussian(0.5), SHAPE, conditions={"mean": rs.Condition(())}
    )
    x, mean = torch.randn(4, *SHAPE), torch.arange(4.0)
    D = denoiser(x, 2.0, mean=mean)
    assert torch.equal(D, problems.conditional_gaussian(0.5)(x, torch.full((4,), 2.0), mean))
    assert torch.equal(denoiser(x, 2.0, mean=torch.tensor(3.0))[3], D[3])
    assert denoiser(x.double(), 2.0, mean=mean).dtype == torch.float64
    mean.requires_grad_()
    denoiser(x, 2.0, mean=mean).sum().backward()
    assert mean.grad.shape == (4,) and bool((mean.grad != 0).all())  # for training
    with pytest.raises(rs.RestartError, match="condition 'mean' of 'D' is missing"):
        denoiser(x, 2.0)
    with pytest.raises(rs.RestartError, match="'D' has no condition 'means'; did you mean 'mean'"):
        denoiser(x, 2.0, means=mean)
    with pytest.raises(rs.RestartError, match="'D' has no condition 'class_labels'"):
        denoiser(x, 2.0, torch.eye(4), mean=mean)


def test_one_hot_rows_pick_from_a_table_and_rows_of_zeros_pick_the_null():
    table, hot = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    for null, second in ((5.0, [5, 5]), ("same", [1, 2])):
        found = rs.Condition((2,), null=null, default=table).picked(hot)
        assert found.tolist() == [[3, 4], second, [1, 2]]
    without = rs.Condition((2,), default=table)
    assert without.picked(hot[::2]).tolist() == [[3, 4], [1, 2]]
    assert without.picked(hot) is None and without.picked(None) is None and rs.Condition((2,)).picked(hot) is None
    assert rs.Condition((2,), default=table[:1]).picked(None).tolist() == [1, 2]
    denoiser = rs.Denoiser.from_function(lambda x, sigma, c: x * c[:, :1, None], SHAPE, conditions={"c": without})
    x = torch.ones(2, *SHAPE)
    assert denoiser(x, 1.0, hot[::2])[:, 0, 0].tolist() == [3, 1]
    with pytest.raises(rs.RestartError, match="'c' of '<lambda>' is missing"):
        denoiser(x, 1.0)


def test_placeholders_are_values_that_the_network_takes():
    conditions = {
        CLASS: rs.Condition((3,), null=0.0),
        "a": rs.Condition((2,), null=5.0, default=torch.tensor([1.0, 2.0])),
        "b": rs.Condition((), torch.int64, null=9),
        "c": rs.Condition((2,), torch.bool),
        "d": rs.Condition((), default=torch.tensor([4.0, 5.0, 6.0])),
        "e": rs.Condition((2,), null="same"),
    }
    found = placeholders(conditions, 2, torch.device("cpu"))
    assert found[CLASS].tolist() == [[1, 0, 0]] * 2 and found["a"].tolist() == [[1, 2]] * 2
    assert found["b"].tolist() == [9, 9] and found["c"].tolist() == [[False, False]] * 2
    assert found["d"].tolist() == [4, 4] and found["e"].tolist() == [[0, 0]] * 2
    assert {name: value.dtype for name, value in found.items()} == {n: c.dtype for n, c in conditions.items()}
