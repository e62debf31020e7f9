"""Shared blocks against torch's own layers and against direct formulas."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from trainer.models.blocks import (
    Initialiser,
    dropper,
    encoder,
    init_attention,
    init_encoder,
    init_mlp,
    masked_softmax,
    mlp,
    target_attention,
    zero_unless,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(init: Initialiser) -> dict[str, Tensor]:
    """The weights with biases and slopes moved off their start."""
    for seed, values in enumerate(init.params.values()):
        values.add_(normal(*values.shape, seed=seed), alpha=0.1)
    return init.params


@pytest.mark.parametrize("post_norm", [False, True])
def test_encoder_equals_the_transformer_layer_of_torch(*, post_norm: bool) -> None:
    width, heads = 12, 3
    init = Initialiser(1)
    init_encoder(init, "e", width, 1, post_norm=post_norm)
    params = stirred(init)
    oracle = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, batch_first=True, norm_first=not post_norm)
    theirs = {
        "self_attn.in_proj_weight": params["e.0.qkv.weight"],
        "self_attn.in_proj_bias": torch.zeros(3 * width),
        "self_attn.out_proj.weight": params["e.0.out.weight"],
        "self_attn.out_proj.bias": params["e.0.out.bias"],
        "linear1.weight": params["e.0.ffn_in.weight"],
        "linear1.bias": params["e.0.ffn_in.bias"],
        "linear2.weight": params["e.0.ffn_out.weight"],
        "linear2.bias": params["e.0.ffn_out.bias"],
        "norm1.weight": params["e.0.norm_attention.weight"],
        "norm1.bias": params["e.0.norm_attention.bias"],
        "norm2.weight": params["e.0.norm_ffn.weight"],
        "norm2.bias": params["e.0.norm_ffn.bias"],
    }
    oracle.load_state_dict(theirs)
    values = normal(2, 5, width, seed=9)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    expected = oracle(values, src_key_padding_mask=~mask)
    if not post_norm:
        expected = nn.functional.layer_norm(expected, (width,), params["e.norm.weight"], params["e.norm.bias"])
    found = encoder(params, "e", values, mask, layers=1, heads=heads, post_norm=post_norm)
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=1e-5)
    assert not found[~mask].any()


@pytest.mark.parametrize("raw", [False, True])
def test_factored_attention_equals_the_concatenation(*, raw: bool) -> None:
    init = Initialiser(2)
    init_attention(init, "a", width=6, side=3, client=4, hidden=(7, 5))
    params = stirred(init)
    query, key, value = normal(2, 4, 6), normal(2, 3, 6, seed=1), normal(2, 3, 8, seed=2)
    side, client = normal(2, 3, 3, seed=3), normal(2, 4, seed=4)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    q = query[:, :, None, :].expand(2, 4, 3, 6)
    k = key[:, None, :, :].expand(2, 4, 3, 6)
    pairs = torch.cat(
        [
            q,
            k,
            q - k,
            q * k,
            side[:, None, :, :].expand(2, 4, 3, 3),
            client[:, None, None, :].expand(2, 4, 3, 4),
        ],
        dim=-1,
    )
    for layer in range(2):
        pairs = nn.functional.linear(pairs, params[f"a.{layer}.weight"], params[f"a.{layer}.bias"])
        pairs = torch.where(pairs > 0, pairs, params[f"a.{layer}.slope"] * pairs)
    scores = nn.functional.linear(pairs, params["a.2.weight"], params["a.2.bias"]).squeeze(-1)[0, :, :2]
    weights = scores if raw else torch.softmax(scores, dim=-1)
    found = target_attention(
        params, "a", query=query, key=key, value=value, side=side, client=client, mask=mask, raw=raw
    )
    torch.testing.assert_close(found[0], weights @ value[0, :2], rtol=1e-5, atol=1e-5)
    assert not found[1].any()


def test_masked_softmax_of_nothing_is_zero() -> None:
    scores = torch.tensor([[1.0, 2.0], [float("nan"), 5.0]])
    weights = masked_softmax(scores, torch.tensor([[True, False], [False, False]]))
    assert weights.tolist() == [[1, 0], [0, 0]]


def test_zero_unless_removes_nan_and_its_gradient() -> None:
    values = torch.tensor([[[1.0], [float("nan")]]], requires_grad=True)
    kept = zero_unless(torch.tensor([[True, False]]), values)
    (gradient,) = torch.autograd.grad((kept * kept).sum(), [values])
    assert gradient.tolist() == [[[2], [0]]]


def test_mlp_is_relu_without_slopes_and_prelu_with() -> None:
    for slopes in (False, True):
        init = Initialiser(3)
        init_mlp(init, "m", (4, 3), prelu_slopes=slopes)
        values = normal(5, 4, seed=6)
        before = values @ init.params["m.0.weight"].T
        expected = torch.where(before > 0, before, 0.25 * before if slopes else torch.zeros_like(before))
        torch.testing.assert_close(mlp(init.params, "m", values, layers=1), expected)


def test_dropout_is_inverted_seeded_and_off_without_a_generator() -> None:
    values = torch.ones(4_000)
    assert torch.equal(dropper(0.25, None)(values), values)
    drawn = dropper(0.25, torch.Generator().manual_seed(1))(values)
    assert torch.equal(drawn, dropper(0.25, torch.Generator().manual_seed(1))(values))
    assert drawn.mean().item() == pytest.approx(1, abs=0.05)
    assert sorted(set(drawn.tolist())) == pytest.approx([0, 4 / 3])


def test_a_weight_cannot_be_defined_twice() -> None:
    init = Initialiser(0)
    init.linear("a", 2, 2)
    with pytest.raises(ValueError, match="twice"):
        init.linear("a", 2, 2)
