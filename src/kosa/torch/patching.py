"""Causal language models of Hugging Face transformers, trained without their logits.

A model's own forward runs; only its output head and its loss are stood in for. The head returns `UncomputedLogits`, which
notes what the forward does with logits (it multiplies, divides, soft-caps them), and the loss is one linear
cross-entropy of that. So scales, soft caps, auxiliary losses and whatever else a forward adds stay the model's, and
what cannot be expressed is refused rather than left out.
"""

import inspect
import sys
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from kosa.loss import Options
from kosa.torch import linear
from kosa.torch.functional import Names, linear_loss, prepared

_NAMES = Names("hidden", "head.weight", "head.bias", "labels")


def patch(model: Any, *, evaluation: bool = False, workspace: int | None = None) -> "Patch":
    """Let a transformers causal language model compute its training loss by `kosa.torch.linear_cross_entropy`.

    While the model is in training mode and gets `labels`, the N×K logits are never made: their memory and much of the
    time of head and loss are saved; loss and gradients are those of the model as it was. Everything else is the model's
    own forward: without `labels` (`generate` among it) and in evaluation mode, with `labels` or without.

    The loss is transformers' `ForCausalLMLoss`, with its shift, `shift_labels`, `num_items_in_batch` (the sum of the
    losses divided by it, for gradient accumulation) and `ignore_index`; in float32, or float64 for a float64 model. The
    `logits` of an output in training are an object without values that says so when it is used.

    Args:
        model: a `PreTrainedModel` whose output embeddings are a plain `nn.Linear` and whose forward calls
            `self.loss_function`, which is `ForCausalLMLoss`: Llama, Mistral, Mixtral, Qwen, Gemma, Phi, GPT-2, …; the
            model itself, before PEFT, torch.compile or a wrapper for several devices. This instance is changed.
        evaluation: whether `labels` in evaluation mode give a loss without logits too. Not for a Trainer with
            `compute_metrics`, which needs logits.
        workspace: bytes for the logits of a chunk of rows, as for `kosa.linear_cross_entropy`.

    Returns:
        The patch. `remove()`, or leaving its `with`, makes the model what it was. It is `model.forward` meanwhile, so
        a copy or an unpickled model has a patch of its own: `copy.forward.remove()`.

    Raises:
        TypeError: for what is not such a model, and in training for one that uses its logits for more than the loss.
        ValueError: for a model that is patched already or whose forward, head or loss is not known.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM  # doctest: +SKIP
        >>> model = LlamaForCausalLM(LlamaConfig())  # doctest: +SKIP
        >>> with kosa.torch.patch(model):  # doctest: +SKIP
        ...     model(input_ids=ids, labels=ids).loss.backward()
    """
    _check(model)
    return Patch(model, evaluation, workspace)


class Patch:
    """A patched model: its forward while it lasts."""

    def __init__(self, model: Any, evaluation: bool, workspace: int | None) -> None:
        self._model, self._head = model, model.get_output_embeddings()
        self._evaluation, self._workspace = evaluation, workspace
        self._original, self._loss_before = (model.__dict__.get(x) for x in ("forward", "_loss_function"))
        self._labels = list(inspect.signature(model.forward).parameters).index("labels")
        self._withheld = self._scored = False
        self._head.forward = self._logits
        model.loss_function = self._loss
        model.forward = self

    def remove(self) -> None:
        """Make the model what it was. A patch that is removed already is left alone."""
        if self._head.__dict__.get("forward") != self._logits:
            return
        if self._model.__dict__.get("forward") is not self:
            raise ValueError(
                "`model.forward` was replaced after `patch`, perhaps by a Trainer or accelerate: remove that first"
            )
        del self._model.forward, self._model._loss_function, self._head.forward
        if self._original is not None:
            self._model.forward = self._original
        if self._loss_before is not None:
            self._model.loss_function = self._loss_before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the model's forward: transformers' Trainer and `generate` choose arguments by it."""
        return inspect.signature(self._original or type(self._model).forward.__get__(self._model))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        labels = args[self._labels] if len(args) > self._labels else kwargs.get("labels")
        if labels is None or not (self._model.training or self._evaluation):
            return self._forward(args, kwargs)
        self._withheld, self._scored = True, False
        try:
            output = self._forward(args, kwargs)
        finally:
            self._withheld = False
        if not self._scored:
            name = type(self._model).__name__
            if self._model.get_output_embeddings() is not self._head:
                raise ValueError(
                    f"the output embeddings of {name} were replaced after `patch`: patch it again"
                )
            raise ValueError(
                f"the forward of {name} got `labels`, but did not pass the output of its head to its loss: it cannot be "
                "patched, `model.forward.remove()`"
            )
        return output

    def _forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._original is not None:
            return self._original(*args, **kwargs)
        return type(self._model).forward(self._model, *args, **kwargs)

    def _logits(self, input: Tensor) -> Any:
        """Stands in for the head's forward."""
        if self._withheld:
            return UncomputedLogits(input, self._head.weight, self._head.bias)
        return nn.Linear.forward(self._head, input)

    def _loss(
        self, logits: Any, labels: Tensor, vocab_size: int, num_items_in_batch: Any = None, ignore_index: int = -100,
        shift_labels: Tensor | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """Stands in for ForCausalLMLoss, which ignores further keywords too."""
        if not isinstance(logits, UncomputedLogits):
            return sys.modules["transformers"].loss.loss_utils.ForCausalLMLoss(
                logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **kwargs
            )
        head = logits.taken()
        hidden, weight = head.hidden, head.weight
        self._scored = True
        if vocab_size != len(weight):
            raise ValueError(
                f"the model's configuration says {vocab_size} tokens, but its output embeddings have {len(weight)}: "
                "use `model.resize_token_embeddings`"
            )
        targets = (labels if shift_labels is None else shift_labels).to(hidden.device)
        shift = int(shift_labels is None)
        options = Options(
            "logits", -1, ignore_index, softcap=head.softcap, temperature=head.temperature,
            reduction="mean" if num_items_in_batch is None else "sum",
        )  # fmt: skip
        tensors = prepared(hidden, weight, targets, head.bias, None, None, self._workspace, shift, _NAMES)
        if num_items_in_batch is None:
            loss = linear_loss(tensors, options, self._workspace, shift, _NAMES.target)
        else:
            # The divisor goes in as the scale: dividing afterwards would pass over all gradients once more.
            items = torch.as_tensor(num_items_in_batch, dtype=torch.float64, device=hidden.device)
            loss = linear.scaled_sum(tensors, options, self._workspace, shift, _NAMES.target, 1.0 / items)
        return loss.to(torch.promote_types(hidden.dtype, torch.float32))


class Head(NamedTuple):
    """What logits are made of."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    temperature: float


def _refused(use: str) -> Any:
    def operator(self: "UncomputedLogits", *_: Any) -> Any:
        raise self._refusal(use)

    return operator


class UncomputedLogits:
    """hidden·weightᵀ + bias, as a model's forward scales and soft-caps them: noted, not computed."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._tensors: tuple[Tensor, Tensor, Tensor | None] | None = (hidden, weight, bias)
        # The value is f(times/over · z), f the identity or tanh(inner[0]/inner[1] · z). Products and quotients are kept
        # apart, so that the customary z / c, tanh, · c leaves a factor of exactly 1.
        self._times, self._over = 1.0, 1.0
        self._inner: Any = None

    def taken(self) -> Head:
        """Return what the logits are made of, and forget it: an output must not hold it."""
        hidden, weight, bias = self._held("given to a second loss")
        self._tensors = None
        if self._inner is None:
            return Head(hidden, weight, bias, None, self._over / self._times)
        softcap = self._times / self._over
        factor = softcap * self._inner[0] / self._inner[1]
        if factor != 1.0:
            hidden, bias = hidden * factor, None if bias is None else bias * factor
        return Head(hidden, weight, bias, softcap, 1.0)

    def __mul__(self, factor: Any) -> "UncomputedLogits":
        return self._changed(times=self._number(factor, "multiplied by"))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> "UncomputedLogits":
        return self._changed(over=self._number(divisor, "divided by"))

    __add__ = __radd__ = __sub__ = __rsub__ = _refused("added or subtracted")
    __neg__ = _refused("negated")

    def tanh(self) -> "UncomputedLogits":
        if self._inner is not None:
            raise self._refusal("soft-capped twice")
        changed = self._changed()
        changed._times, changed._over, changed._inner = 1.0, 1.0, (self._times, self._over)
        return changed

    def float(self) -> "UncomputedLogits":
        return self._changed()

    def contiguous(self) -> "UncomputedLogits":
        return self._changed()

    def to(self, *args: Any, **kwargs: Any) -> "UncomputedLogits":
        """A dtype is of no consequence, as the loss is computed in float32 at least."""
        return self._changed()

    @property
    def device(self) -> torch.device:
        return self._held("asked for their device")[0].device

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.tanh and not kwargs:
            return args[0].tanh()
        raise cls._refusal(f"passed to {getattr(func, '__name__', func)}")

    def __getitem__(self, key: Any) -> Any:
        raise self._refusal("indexed")

    def __getattr__(self, name: str) -> Any:
        # AttributeError, so that hasattr still answers.
        raise AttributeError(str(self._refusal(f"asked for .{name}")))

    def __repr__(self) -> str:
        return "<logits that kosa.torch.patch left uncomputed>"

    def _changed(self, times: Any = 1.0, over: Any = 1.0) -> "UncomputedLogits":
        changed = UncomputedLogits(*self._held("used"))
        changed._times, changed._over, changed._inner = self._times * times, self._over * over, self._inner
        return changed

    def _held(self, use: str) -> tuple[Tensor, Tensor, Tensor | None]:
        if self._tensors is None:
            raise self._refusal(use)
        return self._tensors

    def _number(self, value: Any, what: str) -> Any:
        if isinstance(value, int | float) and value > 0:
            return value
        raise self._refusal(f"{what} {value!r:.40}, which is not a number above 0")

    @staticmethod
    def _refusal(use: str) -> TypeError:
        return TypeError(
            f"logits are {use}, but `kosa.torch.patch` leaves them uncomputed in training: use the loss alone, ask for "
            "logits after `model.eval()` or without `labels`, or undo the patch with `model.forward.remove()`"
        )


def _check(model: Any) -> None:
    """Say what of a model is not known."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        came = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(
            "`model` must be a transformers.PreTrainedModel, before PEFT, torch.compile or another wrapper, but is a "
            f"{came}: patch the model inside, or call kosa.torch.linear_cross_entropy in your own forward"
        )
    name = type(model).__name__
    if isinstance(model.__dict__.get("forward"), Patch):
        raise ValueError(f"`model`, a {name}, is patched already: `model.forward.remove()` undoes that")
    forward = inspect.unwrap(type(model).forward)
    if "labels" not in inspect.signature(model.forward).parameters:
        raise ValueError(f"`model` is a {name}, whose forward takes no `labels` and so computes no loss")
    if "loss_function" not in forward.__code__.co_names:
        raise ValueError(
            f"`model` is a {name}, which computes its loss by itself and not by `self.loss_function`"
        )
    loss = model.loss_function
    if loss is not sys.modules["transformers.loss.loss_utils"].ForCausalLMLoss:
        raise ValueError(
            f"`model` is a {name} whose loss is {getattr(loss, '__name__', loss)}, but only ForCausalLMLoss is known"
        )
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ValueError(
            f"`model` is a {name} whose output embeddings are a {type(head).__module__}.{type(head).__qualname__}, but "
            "must be a plain torch.nn.Linear: adapters and quantised heads are not known"
        )
    if "forward" in head.__dict__ or head._forward_hooks or head._forward_pre_hooks:
        raise ValueError(
            f"`model` is a {name} whose output embeddings have hooks or a replaced forward, which would not see logits: "
            "remove them first"
        )
