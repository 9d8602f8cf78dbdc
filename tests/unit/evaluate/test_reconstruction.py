from dataclasses import replace

import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.evaluate.demo.picture import draw, smooth
from gmml_cluster.evaluate.reconstruction import Reconstruction, choose, reconstruct
from gmml_cluster.methods.build import build
from gmml_cluster.methods.conmim import SHOWN_SIMILAR
from gmml_cluster.methods.gmml import SHOWN_ALIEN, SHOWN_NOISE
from gmml_cluster.methods.mae import Mae, norm_pix, patchify, undo_norm_pix, unpatchify
from gmml_cluster.methods.protocol import Picture
from gmml_cluster.models.attention_map import attention_map
from tests.fixtures.tolerances import assert_close_to_scale
from tests.unit.evaluate.conftest import METHODS


@pytest.fixture
def images():
    return torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 3 - 0.9


def test_unpatchify_inverts_patchify(images):
    assert torch.equal(unpatchify(patchify(images, 4), 4), images)


def test_undo_norm_pix_inverts_norm_pix(images):
    patches = patchify(images, 4)
    assert_close_to_scale(undo_norm_pix(norm_pix(patches), patches), patches, ulps=16)


def test_gmml_shows_noise_and_alien_views_corrupted_on_hidden_pixels_alone(trained, images):
    run = trained("gmml")
    shown = reconstruct(run, images)
    assert {one.kind for one in shown} == {SHOWN_NOISE, SHOWN_ALIEN}
    source = run.method.draw(torch.arange(64), torch.device("cpu"))["source"][:, 0]
    for one, of_one in zip(shown, source, strict=True):
        visible = of_one == -1
        assert torch.equal(one.corrupted[visible], one.original[visible])
        assert one.kind == (SHOWN_ALIEN if (of_one >= 0).any() else SHOWN_NOISE)
        assert not torch.equal(one.corrupted, one.original)


def test_mae_shows_removed_patches_grey_and_keeps_what_was_visible(trained, images):
    run = trained("mae")
    shown = reconstruct(run, images)
    mask = run.method.draw(torch.arange(64), torch.device("cpu"))["mask"]
    for one, removed in zip(shown[:8], mask, strict=False):
        hidden = removed.view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)
        torch.testing.assert_close(one.corrupted[hidden], torch.full_like(one.corrupted[hidden], 0.5))
        torch.testing.assert_close(one.reconstructed[~hidden], one.original[~hidden])


def test_conmim_shows_how_like_the_keys_of_all_patches_are_to_a_masked_ones_query(trained, images):
    run = trained("conmim")
    views, draws = images[:, None].expand(-1, 2, -1, -1, -1), run.method.draw(torch.arange(64), torch.device("cpu"))
    found = reconstruct(run, images)
    cosine = run.method.loss(run.method.module.eval(), views, draws).outputs["prediction"]
    for n, one in enumerate(found[:8]):
        assert (one.kind, one.made) == (SHOWN_SIMILAR, "similarity")
        masked = [(abs(i // 4 - 1.5) ** 2 + abs(i % 4 - 1.5) ** 2, i) for i in range(16) if draws["mask"][n, i]]
        asked = min(masked)[1]
        ratio = (one.reconstructed - 0.5) / (one.original - 0.5)
        shares = [
            ratio[i // 4 * 4 : i // 4 * 4 + 4, i % 4 * 4 : i % 4 * 4 + 4].median() for i in range(16) if i != asked
        ]
        of_asked = torch.stack([cosine[n, asked, i] for i in range(16) if i != asked])
        low, high = cosine[n, asked].min(), cosine[n, asked].max()
        torch.testing.assert_close(torch.stack(shares), (of_asked - low) / (high - low), atol=0.01, rtol=0)
        top, left = asked // 4 * 4, asked % 4 * 4
        orange = (one.corrupted - torch.tensor([0.9, 0.62, 0.0])).abs().amax(2) < 1e-6
        assert not orange[top : top + 4, left : left + 4].any()
        assert orange[max(0, top - 1) : top + 5, max(0, left - 1) : left + 5].sum() == orange.sum() > 0


def test_under_amt_each_image_has_its_map_of_attention(trained, images):
    run = trained("mae")
    amt = run.job.model_copy(
        update={"method": run.job.method.model_validate({"name": "mae", "amt": {}, **METHODS["mae"]})}
    )
    guided = replace(run, job=amt, method=build(amt))
    weights = attention_map(guided.method.module.encoder, images)
    for one, weight in zip(reconstruct(guided, images), weights, strict=True):
        assert one.map is not None
        assert one.map.shape == (16, 16, 3)
        assert (one.map[::4, ::4, 0].flatten() * 255 - (1 + 254 * weight)).abs().max() <= 0.51
    assert reconstruct(run, images)[0].map is None


def test_any_method_shows_what_its_show_returns(trained, images, monkeypatch):
    def show(self, views, draws, outputs, *, grey):
        return Picture(("turned",) * len(views), views[:, 0].flip(3), grey[:, None, None].expand_as(views[:, 0]))

    monkeypatch.setattr(Mae, "show", show)
    one = reconstruct(trained("mae"), images)[0]
    assert one.kind == "turned"
    assert torch.equal(one.corrupted, one.original.flip(1))
    torch.testing.assert_close(one.reconstructed, torch.full((16, 16, 3), 0.5))


def test_a_method_that_shows_nothing_is_refused_by_name(trained, images):
    with pytest.raises(SpecError, match=r"method.name: 'mae' shows no images; .*`show`; give it one"):
        reconstruct(replace(trained("mae"), method=object()), images)


def some(kinds):
    return [Reconstruction(kind, *(torch.rand(16, 16, 3) for _ in range(3))) for kind in kinds]


def test_equally_many_of_each_kind_are_chosen():
    chosen = choose(some(["noise", "alien", "noise", "noise", "alien"] * 8), 10)
    assert [one.kind for one in chosen] == ["alien"] * 5 + ["noise"] * 5
    assert len(choose(some(["removed"] * 12), 10)) == 10


def test_the_running_mean_is_a_mean():
    assert smooth([1.0, 2.0, 6.0], 2).tolist() == [1.5, 4.0]


@pytest.mark.parametrize("kinds", [["noise", "alien"], ["removed"]])
def test_the_picture_has_three_rows_of_images_and_a_curve(kinds, tmp_path):
    figure = draw(some(kinds * 5), [(step, 1 / (step + 1)) for step in range(100)], "title")
    images = [axes for axes in figure.axes if axes.images]
    curves = [axes for axes in figure.axes if axes.lines]
    assert (len(images), len(curves)) == (3 * len(kinds) * 5, 1)
    figure.savefig(tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 10_000
