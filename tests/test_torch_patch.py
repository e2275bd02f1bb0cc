"""`kosa.torch.patch`: the loss, gradients and outputs of a patched model, and its patching and unpatching."""

import copy
import gc
import inspect
import pickle
import weakref

import pytest
import torch
from causal_models import LENGTH, MODELS, VOCABULARY, assert_same, batch, both, gradients, make, step
from torch.nn import functional as F
from transformers.loss.loss_utils import ForCausalLMLoss

import kosa.torch

THREE = list(MODELS)[:3]


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_all_gradients_are_those_of_the_model(name):
    ours, theirs = both(name, **batch())
    assert_same(ours, theirs)
    assert ours[0].dtype == theirs[0].dtype == torch.float32


@pytest.mark.parametrize("name", THREE)
def test_float64(name):
    model, inputs = make(name, torch.float64), batch()
    logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())
    loss.backward()
    theirs = loss.detach(), gradients(model)
    with kosa.torch.patch(model):
        ours = step(model, **inputs)
    assert ours[0].dtype == torch.float64
    assert_same(ours, theirs, 1e-12, 1e-12)


def test_bfloat16_is_nearer_to_float64_than_the_model_was():
    model, inputs = make("Llama", torch.bfloat16), batch()
    theirs = step(model, **inputs)
    with kosa.torch.patch(model):
        ours = step(model, **inputs)
    assert ours[0].dtype == torch.float32
    exact = step(copy.deepcopy(model).double(), **inputs)
    assert abs(ours[0] - exact[0]) <= abs(theirs[0] - exact[0]) + 1e-3
    for name, expected in exact[1].items():
        error, before = ((run[1][name].double() - expected).norm() for run in (ours, theirs))
        assert error <= 1.1 * before + 2**-9 * expected.norm(), name


def test_autocast():
    model, inputs = make("Gemma-2, soft cap"), batch()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = step(model, **inputs)
        with kosa.torch.patch(model):
            ours = step(model, **inputs)
    assert ours[0].dtype == torch.float32
    assert_same(ours, theirs, 4e-3, 2**-5)


@pytest.mark.parametrize("name", THREE)
def test_uneven_micro_batches_accumulate_to_the_gradient_of_the_whole(name):
    parts = [batch(3, 17, 1), batch(1, 5, 2), batch(2, 11, 3)]
    items = sum(int((part["labels"][:, 1:] != -100).sum()) for part in parts)

    def accumulated(model, count):
        losses = []
        for part in parts:
            losses.append(model(**part, num_items_in_batch=count).loss)
            losses[-1].backward()
        return sum(losses).detach(), gradients(model)

    model = make(name)
    theirs = accumulated(model, torch.tensor(items))
    with kosa.torch.patch(model):
        assert_same(accumulated(model, torch.tensor(items)), theirs)
        assert_same(accumulated(model, items), theirs)


def test_shift_labels_are_taken_as_they_are():
    inputs = batch()
    shifted = torch.roll(inputs["labels"], -3, 1)
    ours, theirs = both("Llama", **inputs, shift_labels=shifted)
    assert_same(ours, theirs)
    assert abs(ours[0] - both("Llama", **inputs)[0][0]) > 1e-3


def test_another_ignore_index():
    inputs = batch()
    inputs["labels"] = inputs["labels"].where(inputs["labels"] != -100, 5)
    ours, theirs = both("Llama", **inputs, ignore_index=5)
    assert_same(ours, theirs)


def test_labels_of_no_row_count_for_nothing():
    inputs = batch()
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    model = make("Llama")
    with kosa.torch.patch(model):
        loss, grads = step(model, **inputs, num_items_in_batch=torch.tensor(4))
        assert loss == 0
        assert not any(grad.any() for grad in grads.values())
        assert model(**inputs).loss.isnan()


@pytest.mark.parametrize("name", ["Llama", "GPT-2, tied weights", "GPT-J, bias"])
def test_outputs_other_than_logits_are_the_models(name):
    model, inputs = make(name), batch()
    theirs = model(**inputs, output_hidden_states=True, use_cache=True)
    as_tuple = model(**inputs, return_dict=False)
    with kosa.torch.patch(model):
        ours = model(**inputs, output_hidden_states=True, use_cache=True)
        assert list(ours) == list(theirs)
        assert all(torch.equal(a, b) for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True))
        assert ours.past_key_values.get_seq_length() == theirs.past_key_values.get_seq_length() == LENGTH
        found = model(**inputs, return_dict=False)
    assert len(found) == len(as_tuple)
    assert abs(found[0] - as_tuple[0]) <= 1e-6


def test_labels_may_be_given_by_position():
    model, inputs = make("Llama"), batch()
    place = list(inspect.signature(model.forward).parameters).index("labels")
    arguments = [inputs["input_ids"], inputs["attention_mask"], *[None] * (place - 2), inputs["labels"]]
    with kosa.torch.patch(model):
        output = model(*arguments)
        assert torch.equal(output.loss, model(**inputs).loss)
    assert "uncomputed" in repr(output.logits)


@pytest.mark.parametrize("name", THREE)
def test_logits_that_are_asked_for_are_the_models(name):
    model, inputs = make(name), batch()
    unlabelled = {k: v for k, v in inputs.items() if k != "labels"}
    training = model(**unlabelled).logits
    model.eval()
    theirs, last = model(**inputs), model(**unlabelled, logits_to_keep=2).logits
    said = model.generate(inputs["input_ids"][:1], max_new_tokens=5, do_sample=False)
    with kosa.torch.patch(model):
        ours = model(**inputs)
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.loss, theirs.loss)
        assert torch.equal(model(**unlabelled, logits_to_keep=2).logits, last)
        assert torch.equal(model.generate(inputs["input_ids"][:1], max_new_tokens=5, do_sample=False), said)
        model.train()
        assert torch.equal(model(**unlabelled).logits, training)


def test_evaluation_leaves_logits_out_where_that_is_wanted():
    model, inputs = make("Llama").eval(), batch()
    theirs = model(**inputs).loss
    with kosa.torch.patch(model, evaluation=True), torch.no_grad():
        output = model(**inputs)
    assert abs(output.loss - theirs) <= 1e-6
    assert not isinstance(output.logits, torch.Tensor)


@pytest.mark.parametrize(
    "use",
    [
        lambda z: z.argmax(-1), lambda z: z[..., :-1, :], lambda z: list(z), lambda z: torch.softmax(z, -1),
        lambda z: z * 2.0, lambda z: z.float(), lambda z: z.shape, lambda z: z.device,
    ],
)  # fmt: skip
def test_logits_in_training_explain_themselves(use):
    model = make("Llama")
    with kosa.torch.patch(model):
        logits = model(**batch()).logits
    with pytest.raises((TypeError, AttributeError), match=r"kosa.torch.patch.*`model.eval\(\)`"):
        use(logits)
    assert not hasattr(logits, "dtype")


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda z: z[..., :50], "indexed"),
        (lambda z: z - 1.0, r"logits are added or subtracted, but .*`model\.forward\.remove\(\)`"),
        (lambda z: z + torch.ones(97), "logits are added or subtracted"),
        (lambda z: torch.ones(97) + z, "logits are added or subtracted"),
        (lambda z: 1.0 - z, "logits are added or subtracted"),
        (lambda z: -z, "logits are negated"),
        (lambda z: z * torch.ones(1), "multiplied by tensor"),
        (lambda z: z / 0.0, "divided by 0.0, which is not a number above 0"),
        (lambda z: torch.relu(z), "passed to relu"),
        (lambda z: z.tanh().tanh(), "soft-capped twice"),
        (lambda z: z.masked_fill(None, 0), r"asked for \.masked_fill"),
    ],
)
def test_a_forward_that_does_more_with_its_logits_is_refused(use, said, monkeypatch):
    model = make("Llama")
    loss = kosa.torch.patching.Patch._loss
    monkeypatch.setattr(
        kosa.torch.patching.Patch, "_loss", lambda self, logits, **k: loss(self, use(logits), **k)
    )
    with kosa.torch.patch(model), pytest.raises((TypeError, AttributeError), match=said):
        model(**batch())
    assert model(**batch()).loss.isfinite()


def test_scales_before_and_after_a_soft_cap(monkeypatch):
    model, inputs = make("GPT-J, bias"), batch()
    logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits
    capped = 0.5 * (3.0 * torch.tanh(0.7 * logits / 0.2))
    ForCausalLMLoss(capped, inputs["labels"], VOCABULARY).backward()
    theirs = ForCausalLMLoss(capped, inputs["labels"], VOCABULARY).detach(), gradients(model)
    loss = kosa.torch.patching.Patch._loss
    monkeypatch.setattr(
        kosa.torch.patching.Patch,
        "_loss",
        lambda self, logits, **k: loss(self, 0.5 * (3.0 * torch.tanh(0.7 * logits / 0.2)).float(), **k),
    )
    with kosa.torch.patch(model):
        assert_same(step(model, **inputs), theirs)


def test_remove_restores_the_very_same_forward():
    model = make("Llama")
    forward, keys, heads = model.forward, set(model.__dict__), set(model.lm_head.__dict__)
    handle = kosa.torch.patch(model)
    assert model.forward is handle
    handle.remove()
    handle.remove()
    assert model.forward == forward
    assert model.forward.__func__ is type(model).forward
    assert set(model.__dict__) == keys
    assert set(model.lm_head.__dict__) == heads
    assert model.loss_function is ForCausalLMLoss


def test_remove_restores_a_forward_of_the_instance():
    model, calls = make("Llama"), []
    original = model.forward

    def forward(input_ids=None, labels=None, **kwargs):
        calls.append(labels)
        return original(input_ids=input_ids, labels=labels, **kwargs)

    model.forward = forward
    with kosa.torch.patch(model):
        model(**batch())
        assert len(calls) == 1
    assert model.forward is forward


def test_remove_restores_a_loss_function_that_was_set():
    model = make("Llama")
    model.loss_type = "ForMaskedLM"  # whose loss the model would take by itself
    model.loss_function = ForCausalLMLoss
    kosa.torch.patch(model).remove()
    assert model.loss_function is ForCausalLMLoss


def test_leaving_with_removes_after_an_error_too():
    model = make("Llama")
    with pytest.raises(IndexError, match=r"class indices in \[0, 96\]"), kosa.torch.patch(model):
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), labels=torch.full((1, 4), VOCABULARY))
    assert isinstance(model(**batch()).logits, torch.Tensor)


def test_remove_refuses_where_something_else_took_over():
    model = make("Llama")
    handle = kosa.torch.patch(model)
    model.forward = lambda **kwargs: handle(**kwargs)
    with pytest.raises(ValueError, match=r"`model\.forward` was replaced after `patch`"):
        handle.remove()


def test_signature_is_that_of_the_forward():
    # The Trainer keeps the columns of a data set, and generate the arguments, that it names.
    model = make("Llama")
    signature = inspect.signature(model.forward)
    with kosa.torch.patch(model):
        assert inspect.signature(model.forward) == signature


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_a_patch_of_their_own(copied):
    model, inputs = make("GPT-2, tied weights"), batch()
    handle = kosa.torch.patch(model)
    twin = copied(model)
    handle.remove()
    with torch.no_grad():
        twin.lm_head.weight.mul_(2)
    output = twin(**inputs)
    assert not isinstance(output.logits, torch.Tensor)
    twin.forward.remove()
    assert abs(output.loss - twin(**inputs).loss) <= 1e-6
    assert abs(output.loss - model(**inputs).loss) > 1e-4
    assert set(twin.state_dict()) == set(model.state_dict())


def test_one_instance_only():
    first, second = make("Llama"), make("Llama")
    with kosa.torch.patch(first):
        assert isinstance(second(**batch()).logits, torch.Tensor)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing():
    model = make("Llama")
    theirs = step(model, **batch())
    model.gradient_checkpointing_enable()
    with kosa.torch.patch(model):
        assert_same(step(model, **batch()), theirs)


def test_hidden_states_are_not_kept_by_the_output():
    model = make("Llama")
    with kosa.torch.patch(model):
        seen = []
        norm = model.model.norm.register_forward_hook(lambda *call: seen.append(weakref.ref(call[2])))
        output = model(**batch())
        output.loss.backward()
        output.loss = None
        norm.remove()
    gc.collect()
    assert seen[0]() is None
    assert "uncomputed" in repr(output.logits)
