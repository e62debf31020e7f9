"""Shared blocks against torch's own layers and against direct formulas."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from trainer.models.blocks import Dropout, Encoder, Mlp, TargetAttention, dropper, masked_softmax, zero_unless


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(layer: nn.Module) -> dict[str, Tensor]:
    """Give the layer weights, biases and slopes that differ from their start, and return them."""
    for seed, values in enumerate(layer.parameters()):
        values.data.copy_(0.25 + 0.3 * normal(*values.shape, seed=seed))
    return {name: values.data for name, values in layer.named_parameters()}


@pytest.mark.parametrize("post_norm", [False, True])
def test_encoder_equals_the_transformer_layer_of_torch(*, post_norm: bool) -> None:
    width, heads = 12, 3
    encoder = Encoder(width, 1, heads, post_norm=post_norm)
    params = stirred(encoder)
    oracle = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, batch_first=True, norm_first=not post_norm)
    theirs = {
        "self_attn.in_proj_weight": params["layers.0.qkv.weight"],
        "self_attn.in_proj_bias": torch.zeros(3 * width),
        "self_attn.out_proj.weight": params["layers.0.out.weight"],
        "self_attn.out_proj.bias": params["layers.0.out.bias"],
        "linear1.weight": params["layers.0.ffn_in.weight"],
        "linear1.bias": params["layers.0.ffn_in.bias"],
        "linear2.weight": params["layers.0.ffn_out.weight"],
        "linear2.bias": params["layers.0.ffn_out.bias"],
        "norm1.weight": params["layers.0.norm_attention.weight"],
        "norm1.bias": params["layers.0.norm_attention.bias"],
        "norm2.weight": params["layers.0.norm_ffn.weight"],
        "norm2.bias": params["layers.0.norm_ffn.bias"],
    }
    oracle.load_state_dict(theirs)
    values = normal(2, 5, width, seed=9)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    expected = oracle(values, src_key_padding_mask=~mask)
    if not post_norm:
        expected = nn.functional.layer_norm(expected, (width,), params["norm.weight"], params["norm.bias"])
    found = encoder(values, mask)
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=1e-5)
    assert not found[~mask].any()


@pytest.mark.parametrize("raw", [False, True])
def test_factored_attention_equals_the_concatenation(*, raw: bool) -> None:
    attention = TargetAttention(width=6, side=3, client=4, hidden=(7, 5), raw=raw)
    params = stirred(attention)
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
    for layer in ("first", "second"):
        pairs = nn.functional.linear(pairs, params[f"{layer}.weight"], params[f"{layer}.bias"])
        pairs = torch.where(pairs > 0, pairs, params[f"{layer}_slope.weight"] * pairs)
    scores = nn.functional.linear(pairs, params["score.weight"], params["score.bias"]).squeeze(-1)[0, :, :2]
    weights = scores if raw else torch.softmax(scores, dim=-1)
    found = attention(query=query, key=key, value=value, side=side, client=client, mask=mask)
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
        mlp = Mlp((4, 3), slopes=slopes)
        params = stirred(mlp)
        values = normal(5, 2, 4, seed=6)
        before = values @ params["layers.0.weight"].T + params["layers.0.bias"]
        below = params["layers.1.weight"] * before if slopes else torch.zeros_like(before)
        torch.testing.assert_close(mlp(values), torch.where(before > 0, before, below))


def test_dropout_is_inverted_seeded_and_off_when_not_given() -> None:
    values = torch.ones(4_000)
    assert torch.equal(dropper(None)(values), values)
    drawn = dropper(Dropout(0.25, torch.Generator().manual_seed(1)))(values)
    assert torch.equal(drawn, dropper(Dropout(0.25, torch.Generator().manual_seed(1)))(values))
    assert drawn.mean().item() == pytest.approx(1, abs=0.05)
    assert sorted(set(drawn.tolist())) == pytest.approx([0, 4 / 3])
