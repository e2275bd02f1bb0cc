"""Every error's type and text: the argument, what was expected, what came, what to do."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import kosa

Z = np.zeros((2, 3))
INDICES = np.array([0, 2])
SOFT = np.full((2, 3), 1 / 3)
FUNCTIONS = [kosa.cross_entropy, kosa.cross_entropy_with_grad, kosa.row_statistics]
BINARY = [kosa.binary_cross_entropy, kosa.binary_cross_entropy_with_grad]


@pytest.fixture(params=FUNCTIONS, ids=lambda f: f.__name__)
def function(request):
    return request.param


@pytest.fixture(params=BINARY, ids=lambda f: f.__name__)
def binary(request):
    return request.param


def test_exactly_one_kind_of_predictions(function):
    with pytest.raises(TypeError, match=r"exactly one of `logits`, `probs`, `log_probs`, but none came"):
        function(INDICES)
    with pytest.raises(
        TypeError, match=r"exactly one of .* but `logits` and `probs` came: what the numbers are is said"
    ):
        function(INDICES, logits=Z, probs=Z)
    with pytest.raises(TypeError, match=r"but `logits` and `probs` and `log_probs` came"):
        function(INDICES, logits=Z, probs=Z, log_probs=Z)


def test_binary_exactly_one_kind_of_predictions(binary):
    with pytest.raises(TypeError, match=r"exactly one of `logits`, `probs`, but none came"):
        binary([1])
    with pytest.raises(TypeError, match=r"exactly one of `logits`, `probs`, but `logits` and `probs` came"):
        binary([1], logits=[0.0], probs=[0.5])


@pytest.mark.parametrize(
    "predictions", [lambda: np.ma.masked_array(Z, Z == 0), lambda: np.ma.masked_array(Z)]
)
def test_masked_arrays_would_lose_their_mask(function, predictions):
    with pytest.raises(
        TypeError, match=r"`logits` is a masked array, whose mask would be lost: fill it, or ignore rows"
    ):
        function(INDICES, logits=predictions())
    with pytest.raises(TypeError, match=r"`targets` is a masked array"):
        function(np.ma.masked_array(INDICES), logits=Z)
    with pytest.raises(TypeError, match=r"`sample_weight` is a masked array"):
        function(INDICES, logits=Z, sample_weight=np.ma.masked_array([1.0, 2.0]))


def test_lists_must_be_rectangles_of_numbers(function):
    with pytest.raises(ValueError, match=r"`logits` is no rectangular list: "):
        function([0, 1], logits=[[1.0, 2.0], [3.0]])
    with pytest.raises(TypeError, match=r"`logits` must hold numbers, but is a list of other objects"):
        function([0, 1], logits=[[1.0, None], [3.0, 1.0]])
    with pytest.raises(TypeError, match=r"`targets` must hold numbers, but is a list of other objects"):
        function([0, None], logits=Z)
    with pytest.raises(TypeError, match=r"`logits` must be floating .*, but is str"):
        function([0], logits=[["a", "b"]])
    with pytest.raises(TypeError, match=r"`targets` must be integers .* or floating .*, but are <U"):
        function(["a", "b"], logits=Z)


@pytest.mark.parametrize("name", ["logits", "targets", "sample_weight", "class_weight"])
def test_frameworks_are_not_mixed(function, name):
    arguments = {"targets": INDICES, "logits": Z, name: torch.zeros(2)}
    with pytest.raises(TypeError, match=r"must be a torch.Tensor as .* but is a numpy.ndarray: convert it"):
        function(**arguments)


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (pd.Series([0.0, 1.0]), "pandas.*Series"),
        (pd.DataFrame(Z), "pandas.*DataFrame"),
        ({0: 1.0}, "builtins.dict"),
        ("text", "builtins.str"),
        (object(), "builtins.object"),
        (range(3), "builtins.range"),
    ],
)
def test_an_unknown_framework_is_named(function, binary, value, came):
    with pytest.raises(
        TypeError, match=f"`logits` must be a NumPy array, a list or a number, but is a {came}: convert it"
    ):
        function([0], logits=value)
    with pytest.raises(
        TypeError, match=f"`targets` must be a NumPy array, a list or a number, but is a {came}"
    ):
        function(value, logits=Z)
    with pytest.raises(
        TypeError, match=f"`probs` must be a NumPy array, a list or a number, but is a {came}"
    ):
        binary([0], probs=value)


@pytest.mark.parametrize(
    "dtype", ["int64", "uint8", "bool", "complex128", "longdouble", "object", "M8[s]", "U3"]
)
@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_predictions_must_be_floating(function, dtype, kind):
    with pytest.raises(
        TypeError, match=rf"`{kind}` must be floating \(float16, bfloat16, float32, float64\), but is "
    ):
        function(INDICES, **{kind: np.zeros((2, 3), dtype)})


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_one_hot_targets_must_be_floating(function, dtype):
    text = (
        rf"one-hot targets must be floating, but `targets` .* \(2, 3\), are {dtype}: .*targets.argmax.*floats"
    )
    with pytest.raises(TypeError, match=text):
        function(np.zeros((2, 3), dtype), logits=Z)


def test_targets_must_be_given(function):
    if function is kosa.row_statistics:
        assert function(None, logits=Z).loss is None
        return
    with pytest.raises(TypeError, match=r"`targets`"):
        function(None, logits=Z)
    with pytest.raises(TypeError, match=r"`targets`"):
        function(None, logits=Z, reduction="sum")


def test_targets_are_of_no_other_type(function):
    with pytest.raises(
        TypeError, match=r"`targets` must be class indices or distributions, but are bool: convert them"
    ):
        function(np.array([True, False]), logits=Z)
    for dtype in ("complex128", "longdouble", "M8[s]"):
        with pytest.raises(
            TypeError, match=r"`targets` must be integers \(class indices\) or floating \(distributions\)"
        ):
            function(np.zeros((2, 3), dtype), logits=Z)


def test_shapes_of_targets_are_named(function):
    text = r"class indices must have the shape of `logits` without its class axis, \(2,\), but have \(3,\) .*axis 1\)"
    with pytest.raises(ValueError, match=text):
        function(np.array([0, 1, 2]), logits=Z)
    with pytest.raises(ValueError, match=r"without its class axis, \(2,\), but have \(2, 1\)"):
        function(np.array([[0], [1]]), logits=Z)
    with pytest.raises(ValueError, match=r"without its class axis, \(4, 5\), but have \(4, 3\)"):
        function(np.zeros((4, 3), int), logits=np.zeros((4, 3, 5)), axis=1)
    with pytest.raises(
        ValueError, match=r"distributions, of the shape of `probs`, \(2, 3\), but have \(3, 2\)"
    ):
        function(np.zeros((3, 2)), probs=Z)
    with pytest.raises(ValueError, match=r"\(2, 3\), but have \(2,\): class indices must be integers"):
        function(np.array([0.0, 1.0]), logits=Z)


def test_the_axis_is_checked(function):
    for axis in (2, -3):
        with pytest.raises(
            ValueError, match=rf"`axis` must be in \[-2, 1\] for `logits` of shape \(2, 3\), but is {axis}"
        ):
            function(INDICES, logits=Z, axis=axis)
    for axis in (1.0, "1", None, True):
        with pytest.raises(TypeError, match=f"`axis` must be an integer, but is {axis!r}"):
            function(INDICES, logits=Z, axis=axis)


def test_predictions_need_classes(function):
    with pytest.raises(ValueError, match=r"`logits` must have an axis of classes, but is a scalar"):
        function(0, logits=1.0)
    with pytest.raises(ValueError, match=r"`probs` has no classes: shape \(2, 0\) has length 0 along axis 1"):
        function(INDICES, probs=np.zeros((2, 0)))
    with pytest.raises(
        ValueError, match=r"`logits` has no classes: shape \(0, 4\) has length 0 along axis 0"
    ):
        function(np.zeros(4, int), logits=np.zeros((0, 4)), axis=0)


@pytest.mark.parametrize("value", [3, -1, -101, 2**31, -(2**62)])
def test_the_first_class_out_of_range_is_named(function, value):
    targets = np.array([0, 2, value, 9, 1])
    text = rf"`targets` must be class indices in \[0, 2\] or `ignore_index` \(-100\), but the value at 2 is {value}$"
    for logits in (np.zeros((5, 3)), np.zeros((5, 3), np.float32)):
        with pytest.raises(IndexError, match=text):
            function(targets, logits=logits)
    with pytest.raises(IndexError, match=rf"at \(1, 2\) is {value}$"):
        function(np.array([[0, 1, 2], [1, 1, value], [value, 0, 0]]), logits=np.zeros((3, 3, 3)))
    with pytest.raises(IndexError, match=rf"but the value is {value}$"):
        function(value, logits=[0.0, 1.0, 2.0])


def test_classes_out_of_range_are_named_along_any_axis(function):
    targets = np.zeros((2, 4, 5), int)
    targets[1, 2, 3] = 7
    with pytest.raises(IndexError, match=r"\[0, 6\] .* at \(1, 2, 3\) is 7$"):
        function(targets, probs=np.ones((2, 7, 4, 5)), axis=1)


@pytest.mark.parametrize("value", [2**64 - 100, 2**64 - 1, 2**63])
def test_unsigned_targets_do_not_wrap_round(function, value):
    targets = np.array([0, value], np.uint64)
    with pytest.raises(IndexError, match=rf"at 1 is {value}$"):
        function(targets, logits=Z)
    with pytest.raises(IndexError, match=rf"at 1 is {value}$"):
        function(targets, logits=Z, ignore_index=-1)


def test_an_index_out_of_range_is_seen_past_ignored_ones(function):
    with pytest.raises(IndexError, match=r"`ignore_index` \(9\), but the value at 1 is -100$"):
        function(np.array([9, -100]), logits=Z, ignore_index=9)


@pytest.mark.parametrize("classes", [3, 100])
@pytest.mark.parametrize("rows", [3, 3000])
def test_logits_are_untouched_after_an_index_out_of_range(classes, rows):
    z = np.random.default_rng(0).normal(size=(rows, classes))
    before = z.copy()
    targets = np.zeros(rows, int)
    targets[-1] = classes
    with pytest.raises(IndexError, match=f"at {rows - 1} is {classes}"):
        kosa.cross_entropy_with_grad(targets, logits=z, out=z)
    assert (z == before).all()


def test_class_weights_are_an_array_of_one_a_class(function):
    remedy = r"`class_weight` must be an array of shape \(3,\), but is .*compute_class_weight"
    with pytest.raises(TypeError, match=remedy):
        function(INDICES, logits=Z, class_weight="balanced")
    with pytest.raises(TypeError, match=remedy):
        function(INDICES, logits=Z, class_weight={0: 1.0, 1: 2.0})
    with pytest.raises(
        ValueError, match=r"`class_weight` must have one weight a class, shape \(3,\), but has shape \(2,\)"
    ):
        function(INDICES, logits=Z, class_weight=[1.0, 2.0])
    with pytest.raises(TypeError, match=r"`class_weight` must hold numbers, but is complex128"):
        function(INDICES, logits=Z, class_weight=np.ones(3, complex))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (2, 3)])
def test_sample_weights_are_one_a_row(function, shape):
    text = r"`sample_weight` must have one weight a row, shape \(2,\), but has shape \("
    with pytest.raises(ValueError, match=text):
        function(INDICES, logits=Z, sample_weight=np.ones(shape))
    with pytest.raises(TypeError, match=r"`sample_weight` must hold numbers, but is object"):
        function(INDICES, logits=Z, sample_weight=np.ones(2, object))


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_label_smoothing_is_a_share(function, binary, value):
    with pytest.raises(ValueError, match=r"`label_smoothing` must be in \[0, 1\], but is "):
        function(INDICES, logits=Z, label_smoothing=value)
    with pytest.raises(ValueError, match=r"`label_smoothing` must be in \[0, 1\], but is "):
        binary([1], logits=[0.0], label_smoothing=value)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_softcap_and_temperature_are_positive_and_finite(function, value):
    with pytest.raises(ValueError, match=r"`softcap` must be positive and finite \(None: no cap\), but is "):
        function(INDICES, logits=Z, softcap=value)
    with pytest.raises(ValueError, match=r"`temperature` must be positive and finite, but is "):
        function(INDICES, logits=Z, temperature=value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_z_loss_is_finite(function, value):
    with pytest.raises(ValueError, match=r"`z_loss` must be finite, but is "):
        function(INDICES, logits=Z, z_loss=value)


@pytest.mark.parametrize("option", [{"softcap": 30.0}, {"temperature": 2.0}, {"z_loss": 1e-4}])
@pytest.mark.parametrize("kind", ["probs", "log_probs"])
def test_options_of_logits_do_not_go_with_probabilities(function, option, kind):
    with pytest.raises(
        ValueError, match=f"`softcap`, `temperature` and `z_loss` act on logits, but `{kind}` was given: pass"
    ):
        function(INDICES, **{kind: SOFT}, **option)


@pytest.mark.parametrize("call", [kosa.cross_entropy, kosa.cross_entropy_with_grad, *BINARY])
def test_reductions_are_three(call):
    targets, z = (INDICES, Z) if call not in BINARY else ([1], [0.0])
    for value in ("avg", "", None, "Mean"):
        with pytest.raises(
            ValueError, match=f'`reduction` must be "mean", "sum" or "none", but is {value!r}'
        ):
            call(targets, logits=z, reduction=value)
    with pytest.raises(ValueError, match='`empty` must be "nan" or "zero", but is 0'):
        call(targets, logits=z, empty=0)
    for reduction in ("sum", "none"):
        with pytest.raises(
            ValueError, match=f"`denominator` divides the \"mean\", but `reduction` is '{reduction}': leave"
        ):
            call(targets, logits=z, reduction=reduction, denominator=3)


@pytest.mark.parametrize("option", ["label_smoothing", "temperature", "z_loss", "softcap", "denominator"])
@pytest.mark.parametrize("value", ["0.5", [0.5], 1j])
def test_options_that_are_no_numbers_are_named(option, value):
    with pytest.raises(TypeError, match=f"`{option}`"):
        kosa.cross_entropy(INDICES, logits=Z, **{option: value})


@pytest.mark.parametrize("value", [None, 0.5, "0", np.nan])
def test_an_ignored_index_that_is_no_integer_is_named(function, value):
    with pytest.raises(TypeError, match=r"`ignore_index`"):
        function(INDICES, logits=Z, ignore_index=value)


@pytest.mark.parametrize("value", [2**63, -(2**70)])
def test_an_ignored_index_beyond_64_bits_ignores_nothing_or_is_named(value):
    try:
        assert kosa.cross_entropy(INDICES, logits=Z, ignore_index=value) == pytest.approx(np.log(3))
    except ValueError as error:
        assert "`ignore_index`" in str(error)  # noqa: PT017


def grad(out, targets=INDICES, logits=Z, **options):
    return kosa.cross_entropy_with_grad(targets, logits=logits, out=out, **options)


def binary_grad(out, logits=Z, **options):
    return kosa.binary_cross_entropy_with_grad(SOFT, logits=logits, out=out, **options)


@pytest.mark.parametrize("call", [grad, binary_grad])
def test_what_a_gradient_is_written_to_is_checked(call):
    with pytest.raises(TypeError, match=r"`out` must be a NumPy array, but is a builtins.list"):
        call([[0.0] * 3] * 2)
    with pytest.raises(TypeError, match=r"`logits` must be a torch.Tensor as the other arguments are"):
        call(torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"`out` must have the dtype of `logits`, float64, but has float32"):
        call(np.empty((2, 3), np.float32))
    with pytest.raises(TypeError, match=r"`out` must have the dtype of `logits`, float64, but has >f8"):
        call(np.empty((2, 3), ">f8"))
    with pytest.raises(
        ValueError, match=r"`out` must have the shape of `logits`, \(2, 3\), but has \(3, 2\)"
    ):
        call(np.empty((3, 2)))
    read_only = np.empty((2, 3))
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match=r"`out` must be writable, but is read-only"):
        call(read_only)


@pytest.mark.parametrize("call", [grad, binary_grad])
def test_what_a_gradient_is_written_to_overlaps_nothing(call):
    buffer = np.zeros(20)
    z = buffer[:6].reshape(2, 3)
    for out in (buffer[1:7].reshape(2, 3), buffer[3:9].reshape(2, 3), z[::-1], z[:, ::-1]):
        with pytest.raises(
            ValueError, match=r"`out` overlaps `logits`: pass an array of its own, or exactly the array of"
        ):
            call(out, logits=z)
    with pytest.raises(ValueError, match=r"`out` has elements that share memory: pass an array of its own"):
        call(np.lib.stride_tricks.as_strided(np.zeros(3), (2, 3), (0, 8)))


def test_a_gradient_is_not_written_over_the_targets():
    t = SOFT.copy()
    with pytest.raises(ValueError, match=r"`out` overlaps `targets`"):
        grad(t, targets=t)
    with pytest.raises(ValueError, match=r"`out` overlaps `targets`"):
        kosa.binary_cross_entropy_with_grad(t, logits=Z, out=t)
    memory = np.zeros(6)
    indices = memory.view(np.int64)[:2]
    with pytest.raises(ValueError, match=r"`out` overlaps `targets`"):
        grad(memory.reshape(2, 3), targets=indices)


def test_a_gradient_is_not_written_over_the_weights():
    memory = np.ones(6)
    with pytest.raises(ValueError, match=r"`out` overlaps `sample_weight`"):
        grad(memory.reshape(2, 3), sample_weight=memory[:2])
    with pytest.raises(ValueError, match=r"`out` overlaps `class_weight`"):
        grad(memory.reshape(2, 3), class_weight=memory[:3])


@pytest.mark.parametrize("call", [grad, binary_grad])
def test_elements_of_out_share_no_memory_even_where_it_is_the_logits(call):
    shared = np.lib.stride_tricks.as_strided(np.array([1.0, 2.0, 3.0]), (2, 3), (0, 8))
    with pytest.raises(ValueError, match=r"`out` .*share memory"):
        call(shared, logits=shared)
    window = np.lib.stride_tricks.sliding_window_view(np.zeros(4), 3, writeable=True)
    with pytest.raises(ValueError, match=r"`out` .*share memory"):
        call(window)


def test_binary_shapes_are_named(binary):
    with pytest.raises(
        ValueError, match=r"`targets` must have the shape of `logits`, \(2, 3\), but have \(2,\)"
    ):
        binary(INDICES, logits=Z)
    for name in ("pos_weight", "sample_weight"):
        text = rf"`{name}` must broadcast to the predictions' shape \(2, 3\), but has \(2,\)"
        with pytest.raises(ValueError, match=text):
            binary(SOFT, logits=Z, **{name: [1.0, 2.0]})
        with pytest.raises(TypeError, match=f"`{name}` must hold numbers, but is complex128"):
            binary(SOFT, logits=Z, **{name: 1j * np.ones(3)})
        with pytest.raises(TypeError, match=r"`logits` must be a torch.Tensor as the other arguments are"):
            binary(SOFT, logits=Z, **{name: torch.ones(3)})


def test_binary_integers_are_zero_one_or_ignored(binary):
    text = r"`targets` of integers must be 0, 1 or `ignore_index` \(-100\), but the value at 1 is 2$"
    with pytest.raises(ValueError, match=text):
        binary([1, 2, 3], logits=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"at \(1, 2\) is -1$"):
        binary([[0, 1, 0], [1, 1, -1]], logits=Z)
    with pytest.raises(ValueError, match=r"`ignore_index` \(-100\), but the value is 5$"):
        binary(5, logits=0.0)
    with pytest.raises(ValueError, match=r"at 0 is 18446744073709551516$"):
        binary(np.array([2**64 - 100], np.uint64), logits=[0.0])


def test_binary_targets_and_predictions_are_of_no_other_type(binary):
    with pytest.raises(
        TypeError, match=r"`targets` must be bool, integers 0 and 1, or floating, but are complex128"
    ):
        binary(np.zeros(2, complex), logits=np.zeros(2))
    with pytest.raises(TypeError, match=r"`logits` must be floating .*, but is int64"):
        binary([1, 0], logits=np.zeros(2, int))
    with pytest.raises(TypeError, match=r"`targets` is a masked array"):
        binary(np.ma.masked_array([1, 0]), logits=np.zeros(2))
    with pytest.raises(TypeError, match=r"`targets`"):
        binary(None, logits=np.zeros(2))


@pytest.mark.parametrize("value", [0, -1])
def test_the_number_of_threads_is_positive(value):
    with pytest.raises(ValueError, match=f"`n` must be a positive number of threads, but is {value}"):
        kosa.set_num_threads(value)


@pytest.mark.parametrize("value", [1.0, "2", None, True])
def test_the_number_of_threads_is_an_integer(value):
    with pytest.raises(TypeError, match=f"`n` must be an integer number of threads, but is {value!r}"):
        kosa.set_num_threads(value)


def test_unknown_arguments_and_positional_predictions_are_errors():
    with pytest.raises(TypeError, match=r"unexpected keyword argument"):
        kosa.cross_entropy(INDICES, logits=Z, weight=None)
    with pytest.raises(TypeError, match=r"positional argument"):
        kosa.cross_entropy(Z, INDICES)


def test_errors_need_no_assertions():
    code = "import kosa\ntry: kosa.cross_entropy([3], logits=[[0.0, 1.0]])\nexcept IndexError as e: print(e)"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    assert "but the value at 0 is 3" in done.stdout
