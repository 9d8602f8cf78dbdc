"""GMML: groups of connected pixels are replaced by noise or by another image's, and reconstructed.

Source: arXiv 2205.14986; constants and draws: docs/reference/methods.md. Images are coupled within a group alone: by
donors and by the denominator of the loss.

Dims: n images of whole groups, g groups, G images of a group, V views, B = n V, C channels, S side of an image,
L blocks, N patches, H patches held, D width, R rectangles.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import integer, pixel_noise, view_words
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods import drawing
from gmml_cluster.methods.groups import group_sums
from gmml_cluster.methods.masks import attention, gmml_rectangles
from gmml_cluster.methods.masks.cells import patches_of
from gmml_cluster.methods.panels import SEEN, hide
from gmml_cluster.methods.protocol import (
    ROLE,
    Draws,
    Forward,
    InitDistribution,
    Losses,
    Panel,
    Picture,
    Setting,
    check_draws,
)
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.spec.methods.amt import token_roles
from gmml_cluster.spec.methods.gmml import GmmlOptions, grid_step, longest_side

ITSELF, NOISE, ZEROS = -1, -2, -3
_CODES = {"noise": NOISE, "zeros": ZEROS}
_NAMES = {code: name for name, code in _CODES.items()}
SHOWN_NOISE, SHOWN_ALIEN = "groups of pixels replaced by noise", "groups replaced from another image"


class Head(nn.Module):
    """Three linear layers, each with GELU, then a transposed convolution to pixels."""

    def __init__(self, width: int, patch_size: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        layers = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.GELU())]
        self.mlp = nn.Sequential(*layers)
        self.convTrans = nn.ConvTranspose2d(width, 3, patch_size, stride=patch_size)

    def forward(self, tokens_BND: Tensor, held_BH: Tensor | None = None) -> Tensor:
        """Images (B, 3, S, S) in normalised units; of patches that are not held, a constant."""
        made_BND = self.mlp(tokens_BND)
        if held_BH is not None:
            made_BND = attention.at_places(made_BND, held_BH, self.grid**2)
        cells = made_BND.transpose(1, 2).reshape(*made_BND.shape[::2], self.grid, self.grid)
        return self.convTrans(cells)  # type: ignore[no-any-return]


class GmmlModel(nn.Module):
    """Encoder and head; the head reads the mean of the tapped blocks, normed once."""

    def __init__(self, encoder: VisionTransformer, taps: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.taps = taps
        self.encoder = encoder
        self.head = Head(width, encoder.patch_size, encoder.grid)

    def forward(self, images_BCSS: Tensor, drop_BL2: Tensor | None = None, held_BH: Tensor | None = None) -> Tensor:
        """Reconstructions (B, 3, S, S)."""
        tokens = self.encoder(images_BCSS, drop_BL2=drop_BL2, taps=self.taps, keep_BK=held_BH)
        return self.head(tokens[:, 1:], held_BH)  # type: ignore[no-any-return]


class Gmml:
    """The method; see `Verifiable`.

    Draws: `source` (n, V, S, S), what a pixel shows: `ITSELF`, `NOISE`, `ZEROS`, or the donor's index in its group;
    `short` (n, V), views whose rectangles did not hide enough; `noise` (n, V, 3, S, S); `drop` (n, V, L, 2).
    With AMT, once there are maps: also `role` (n, V, N), whose masked patches `source` hides, and `held` (n, V, H), the
    patches that the encoder sees.
    """

    def __init__(self, setting: Setting, options: GmmlOptions) -> None:
        model = setting.model
        self.setting, self.options, self.views, self.amt = setting, options, options.views, options.amt
        self.align, self.longest = grid_step(options, model), longest_side(options, setting.image_size)
        self.taps = default_taps(model.depth) if options.taps is None else options.taps
        self.rates = drawing.drop_rates(model.drop_path or 0.0, model.depth)
        self.module: nn.Module = GmmlModel(setting.encoder(), self.taps, model.width)

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """Convolutions as torch initialises them, all else normal with 0.02."""
        if name.startswith(("encoder.patch_embed.", "head.convTrans.")):
            return InitDistribution("uniform", (3 * self.setting.model.patch_size**2) ** -0.5)
        if name.endswith(".bias"):
            return InitDistribution("constant", 0.0)
        return InitDistribution("constant", 1.0) if len(shape) == 1 else InitDistribution("normal", 0.02)

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
        given: Draws | None = None,
    ) -> Draws:
        """Draws by sample number: `source` with `short`, `noise` where it is used, `drop` where blocks drop.

        By a given map also the roles.
        """
        numbers = numbers.to(device)
        seed, size = self.setting.seed, self.setting.image_size
        wanted = {"source", "noise", "drop", *attention.NAMES} if names is None else set(names)
        roles: Draws = {}
        if self.amt is not None and given:
            counts = token_roles(self.amt, self.setting.patches)
            roles = attention.with_roles(given, seed, numbers, counts, views=self.views)
        words = self._word_counts(
            source="source" in wanted, rectangles=not roles, drop="drop" in wanted and any(self.rates)
        )
        random_bits = view_words(seed, numbers, self.views, words) if words else {}
        draws = {name: value for name, value in roles.items() if name in wanted}
        if "source" in wanted:
            draws["source"], draws["short"] = self._sources(numbers, random_bits, roles.get(ROLE))
        if "noise" in wanted and self.options.noise_ratio > 0 and "noise" in self.options.fill:
            draws["noise"] = pixel_noise(seed, numbers, views=self.views, size=size, dtype=dtype)
        if Purpose.DROP_PATH in random_bits:
            draws["drop"] = drawing.drop_path(random_bits[Purpose.DROP_PATH], self.rates, dtype)
        return draws

    def _word_counts(self, *, source: bool, rectangles: bool, drop: bool) -> dict[int, int]:
        """Words of a view by purpose; without rectangles a view has one kind of corruption."""
        each = self.options.mixing == "rectangle" and rectangles
        counts: dict[int, int] = {}
        if source:
            counts[Purpose.CORRUPTION] = 4 * (1 + gmml_rectangles.CANDIDATES) if each else 4
        if source and rectangles:
            counts[Purpose.RECTANGLES] = gmml_rectangles.WORDS
        return counts | {Purpose.DROP_PATH: 2 * len(self.rates)} if drop else counts

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside; without `drop` no branch is dropped, and no view of a given `source` is short.

        With roles, `source` hides their masked patches.
        """
        views, size = self.views, self.setting.image_size
        shapes: dict[str, tuple[int, ...]] = {
            "source": (count, views, size, size),
            "noise": (count, views, 3, size, size),
            "drop": (count, views, self.setting.model.depth, 2),
            "short": (count, views),
        }
        by_role = self.amt is not None and attention.decide(given)
        if by_role:
            role = {ROLE: (count, views, self.setting.patches)}
            given = attention.accept_roles(given, {**shapes, **role}, views=views)
            shapes |= {name: tuple(given[name].shape) for name in attention.NAMES if name in given}
        source = given.get("source", torch.tensor([ITSELF]))
        check_draws(given, shapes, ["source", "noise"] if bool((source == NOISE).any()) else ["source"])
        if int(source.min()) < ZEROS or int(source.max()) >= self.setting.group:
            rule = f"codes are {ZEROS} to {ITSELF}, indices of the group 0 to {self.setting.group - 1}"
            problem = f"holds {int(source.min())} to {int(source.max())}; {rule}"
            raise SpecError(Fault("draws.source", problem, "fix the array"))
        if by_role and not torch.equal(source != ITSELF, self._pixels(given[ROLE] == attention.MASKED)):
            problem = "hides other pixels than those of the patches whose role is masked"
            raise SpecError(Fault("draws.source", problem, "fix the array"))
        return {"short": torch.zeros(count, views, dtype=torch.bool), **given}

    def _pixels(self, patches_nVN: Tensor) -> Tensor:
        """What the pixels of each patch have in common (n, V, S, S)."""
        pixels = patches_of(patches_nVN.flatten(0, 1), self.setting.model.patch_size)
        return pixels.view(*patches_nVN.shape[:2], self.setting.image_size, -1)

    def _sources(
        self, numbers: Tensor, random_bits: dict[int, Tensor], roles_nVN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What each pixel shows (int16 (n, V, S, S)), and which views ran short of rectangles (n, V).

        With roles, masked patches are hidden in place of rectangles.
        """
        options, size = self.options, self.setting.image_size
        each = options.mixing == "rectangle"
        drawn = random_bits[Purpose.CORRUPTION].flatten(0, 1)
        index = (numbers % self.setting.group)[:, None].expand(-1, self.views).flatten()
        branch = self._kind(drawn[:, 0])
        if roles_nVN is not None:
            shows_nV11 = self._of_view(branch, drawn, index).view(-1, self.views, 1, 1)
            masked = self._pixels(roles_nVN == attention.MASKED)
            return torch.where(masked, shows_nV11, ITSELF).to(torch.int16), torch.zeros_like(masked[:, :, 0, 0])
        target = torch.where(
            branch == 0,
            gmml_rectangles.target_pixels(drawn[:, 2], options.alien_ratio, size),
            gmml_rectangles.target_pixels(drawn[:, 2], options.noise_ratio, size),
        )
        candidates = random_bits[Purpose.RECTANGLES].flatten(0, 1)
        rectangles = gmml_rectangles.rectangles(candidates, size=size, align=self.align, longest=self.longest)
        cover = gmml_rectangles.cover(rectangles, target, size=size, topmost=each)
        if each:
            contents = self._content(self._kind(drawn[:, 4::4]), drawn[:, 5::4], index[:, None])
            shows = contents.gather(1, cover.shown.clamp(min=0).flatten(1)).view_as(cover.shown)
        else:
            shows = self._of_view(branch, drawn, index)[:, None, None]
        source = torch.where(cover.shown >= 0, shows, ITSELF).to(torch.int16)
        return source.view(-1, self.views, size, size), cover.short.view(-1, self.views)

    def _of_view(self, branch: Tensor, drawn: Tensor, index: Tensor) -> Tensor:
        """What the hidden pixels of a view show where all show the same."""
        kind = (1 + integer(drawn[:, 3], len(self.options.fill))).masked_fill_(branch == 0, 0)
        return self._content(kind, drawn[:, 1], index)

    def _kind(self, drawn: Tensor) -> Tensor:
        """0 for alien, k for the k-th fill, all equally likely; what is off is left out."""
        fills = len(self.options.fill)
        if self.options.noise_ratio == 0:
            return torch.zeros_like(drawn)
        return 1 + integer(drawn, fills) if self.options.alien_ratio == 0 else integer(drawn, fills + 1)

    def _content(self, kind: Tensor, drawn: Tensor, index: Tensor) -> Tensor:
        """What hidden pixels show: the donor's index in the group, or a fill's code."""
        group = self.setting.group
        shows = integer(drawn, group) if self.options.self_donor else (index + 1 + integer(drawn, group - 1)) % group
        for number, fill in enumerate(self.options.fill, start=1):
            shows = shows.masked_fill_(kind == number, _CODES[fill])
        return shows

    def corrupt(self, images: Tensor, draws: Draws) -> Tensor:
        """The images (n, V, 3, S, S) as the encoder sees them."""
        source = draws["source"][:, :, None]
        grouped = images.view(-1, self.setting.group, *images.shape[1:])
        donors = source.clamp(min=0).long().expand_as(images).view_as(grouped)
        seen = torch.where(source >= 0, grouped.gather(1, donors).flatten(0, 1), images)
        seen = torch.where(source == ZEROS, 0.0, seen)
        return torch.where(source == NOISE, draws["noise"], seen) if "noise" in draws else seen

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """L1 over hidden pixels, with one denominator a group: the hidden pixels of all its views."""
        source, drop = draws["source"], draws.get("drop")
        corrupted = self.corrupt(images, draws)
        held = () if "held" not in draws else (draws["held"].flatten(0, 1),)
        prediction = forward(corrupted.flatten(0, 1), None if drop is None else drop.flatten(0, 1), *held)
        prediction = prediction.to(images.dtype).view_as(images)
        error = (prediction - images).abs().mean(2)
        hidden = source != ITSELF
        seen = self._pixels(draws[ROLE] != attention.THROWN) if held else torch.ones_like(hidden)
        counted = hidden if self.options.masked_only else seen
        group = self.setting.group
        total, pixels = group_sums(error, counted, group).unbind(1)
        scalars = {
            "loss_noise": group_sums(error, source < ITSELF, group),
            "loss_alien": group_sums(error, source > ITSELF, group),
            "masked": group_sums(hidden.to(error.dtype), torch.ones_like(hidden), group),
            "short": group_sums(draws["short"].to(error.dtype), torch.ones_like(draws["short"]), group),
        }
        scalars |= attention.weight_scalars(draws, group)
        outputs = {"prediction": prediction.detach(), "mask": hidden, "corrupted": corrupted}
        outputs |= attention.role_outputs(draws)
        return Losses(total / pixels, scalars, outputs)

    def show(self, images: Tensor, draws: Draws, outputs: dict[str, Tensor], *, grey: Tensor) -> Picture:
        """The corrupted view and its prediction."""
        alien = (draws["source"][:, 0] > ITSELF).flatten(1).any(1).tolist()
        kinds = tuple(SHOWN_ALIEN if one else SHOWN_NOISE for one in alien)
        return Picture(kinds, outputs["corrupted"][:, 0], outputs["prediction"][:, 0])

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """The views as they are corrupted, with what is thrown away grey."""
        seen = self.corrupt(images, draws)
        if ROLE in draws:
            thrown = (draws[ROLE] == attention.THROWN).flatten(0, 1)
            seen = hide(seen.flatten(0, 1), thrown, grey).view_as(seen)
        titles = [SEEN] if self.views == 1 else [f"{SEEN}, view {view + 1}" for view in range(self.views)]
        views = zip(titles, seen.unbind(1), draws["source"].unbind(1), strict=True)
        return [Panel(title, view, self._facts(source, numbers)) for title, view, source in views]

    def _facts(self, source_nSS: Tensor, numbers: Tensor) -> list[str]:
        """Of each image how much of it is hidden, and by what."""
        grouped = numbers.view(-1, self.setting.group).repeat_interleave(self.setting.group, 0).tolist()
        facts = []
        for source, of_group in zip(source_nSS, grouped, strict=True):
            codes = sorted(set(source.flatten().tolist()) - {ITSELF})
            shown = [_NAMES[code] if code in _NAMES else f"n {of_group[code]}" for code in codes]
            share = float((source != ITSELF).float().mean())
            facts.append(f"{share:.0%} hidden by {', '.join(shown)}" if shown else "nothing hidden")
        return facts


def default_taps(depth: int) -> tuple[int, ...]:
    """Blocks at 1/2, 2/3, 5/6 and all of the depth, rounded, each once."""
    return tuple(sorted({max(1, round(depth * share)) for share in (1 / 2, 2 / 3, 5 / 6, 1)}))


def build(setting: Setting) -> Gmml:
    """The method with blank weights."""
    if not isinstance(setting.options, GmmlOptions):
        raise TypeError(f"options {setting.options!r}: GMML takes GmmlOptions")
    return Gmml(setting, setting.options)
