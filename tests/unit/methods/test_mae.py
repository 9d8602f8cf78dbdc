"""MAE: an independent oracle, what is kept, what is predicted."""

import pytest
import torch

from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.mae import Mae, norm_pix, patchify
from gmml_cluster.methods.protocol import Method
from gmml_cluster.spec.job import SIZES
from tests.fixtures.tolerances import ULP, assert_close_to_scale
from tests.unit.methods.jobs import job, setting

CPU = torch.device("cpu")
OPTIONS = {"name": "mae", "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}


def images(count: int, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 1, 3, size, size, generator=torch.Generator().manual_seed(0))


def shaken(method: Method) -> Method:
    """The method with every parameter moved, so that none can hide behind a zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return method


@pytest.mark.parametrize("norm", [True, False])
def test_predictions_and_loss_are_those_of_transformers(norm: bool) -> None:
    from tests.unit.models import oracle

    method = shaken(build(job({**OPTIONS, "standardise": norm}, image_size=32)))
    config = oracle.transformers.ViTMAEConfig(
        **oracle.config(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=32,
            patch_size=4,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=64,
            norm_pix_loss=norm,
        )
    )
    theirs = oracle.transformers.ViTMAEForPreTraining(config).eval()
    tables = [part.pos_embed.float() for part in (method.module.encoder, method.module.decoder)]
    theirs.load_state_dict(oracle.masked_autoencoder(method.module.state_dict(), *tables))
    noise, pixels = torch.rand(4, 64, generator=torch.Generator().manual_seed(2)), images(4, 32)
    with torch.no_grad():
        expected = theirs(pixels[:, 0], noise=noise)
        ours = method.loss(method.module, pixels, method.accept({"mask": expected.mask.bool()}, 4))
    assert_close_to_scale(ours.outputs["prediction"], expected.logits, ulps=64)
    assert_close_to_scale(ours.groups[0], expected.loss, ulps=64)


@pytest.mark.parametrize(("size", "trained"), [("small", 47_401_728), ("base", 111_655_680), ("large", 329_239_296)])
def test_parameters_are_as_many_as_the_table_says(size: str, trained: int) -> None:
    method = blank(setting({"name": "mae"}, image_size=224, model=SIZES[size]))
    assert sum(parameter.numel() for parameter in method.module.parameters()) == trained


@pytest.mark.parametrize(("size", "ratio", "kept"), [(224, 0.75, 49), (64, 0.75, 4), (160, 0.9, 9)])
def test_the_share_kept_is_truncated_in_floating_point(size: int, ratio: float, kept: int) -> None:
    method = blank(setting({"name": "mae", "mask_ratio": ratio}, image_size=size, model={"patch_size": 16}))
    draws = method.draw(torch.arange(3), CPU)
    assert draws["keep"].shape == (3, kept)
    assert (~draws["mask"]).sum(1).tolist() == [kept] * 3
    assert not draws["mask"].gather(1, draws["keep"]).any()


def test_all_patches_are_kept_equally_often() -> None:
    mask = blank(setting(OPTIONS)).draw(torch.arange(4000), CPU)["mask"]
    deviation = ((~mask).double().mean(0) - 0.25).abs().max()
    assert float(deviation) < 4 * (0.25 * 0.75 / 4000) ** 0.5


def test_within_a_patch_the_channel_is_fastest() -> None:
    picture = torch.zeros(1, 3, 32, 32)
    picture[0, 0, 2, 16 + 3] = 1
    assert patchify(picture, 16).nonzero().tolist() == [[0, 1, (2 * 16 + 3) * 3]]


def test_a_zero_prediction_costs_what_the_unbiased_variance_says() -> None:
    target = norm_pix(patchify(images(2, 64)[:, 0], 16))
    assert float(target.square().mean()) == pytest.approx(767 / 768, rel=64 * ULP)
    assert not norm_pix(torch.ones(1, 2, 768)).any()


def test_visible_patches_get_no_gradient() -> None:
    method = build(job(OPTIONS))
    draws = method.draw(torch.arange(4), CPU)
    prediction = method.module(images(4)[:, 0], draws["keep"]).detach().requires_grad_()
    method.loss(lambda *_: prediction, images(4), draws).groups.sum().backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad.abs().sum(2) > 0, draws["mask"])


def test_every_parameter_is_trained_by_every_micro_batch() -> None:
    method = build(job(OPTIONS))
    method.loss(method.module, images(4), method.draw(torch.arange(4), CPU)).groups.sum().backward()
    assert all(parameter.grad is not None for parameter in method.module.parameters())


def test_images_do_not_touch_each_other() -> None:
    method = build(job(OPTIONS))
    draws, clean = method.draw(torch.arange(8), CPU), images(8)
    before = method.loss(method.module, clean, draws).outputs["prediction"]
    clean[3] += 1
    after = method.loss(method.module, clean, draws).outputs["prediction"]
    assert (before != after).flatten(1).any(1).nonzero().flatten().tolist() == [3]


def test_mae_is_a_method_of_one_view() -> None:
    assert isinstance(blank(setting(OPTIONS)), Mae)
    assert blank(setting(OPTIONS)).views == 1
