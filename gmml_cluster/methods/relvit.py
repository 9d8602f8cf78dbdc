"""RelViT: where patches lie relative to each other and in the image, told from the patches' looks alone.

Source: arXiv 2206.00481; constants and draws: docs/reference/methods.md. Nothing couples images. Patches are augmented
one by one before they come here (`data.augment: relvit`), so that edges do not give the neighbours away.

Dims: n images of whole groups, S side of an image, p side of a patch, L blocks, N patches.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import order, view_words
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods import drawing
from gmml_cluster.methods.panels import SEEN
from gmml_cluster.methods.protocol import Draws, Forward, InitDistribution, Losses, Panel, Setting, check_draws
from gmml_cluster.methods.relations import RelationHeads, relation_losses
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.spec.methods.relvit import RelVitOptions


class RelVitModel(RelationHeads):
    """Encoder and heads."""

    def __init__(self, encoder: VisionTransformer, options: RelVitOptions, width: int) -> None:
        super().__init__(options, width=width, patches=encoder.grid**2)
        self.encoder = encoder

    def forward(self, images_n3SS: Tensor, drop_nL2: Tensor | None = None) -> tuple[Tensor, ...]:
        """Predictions of the tasks; see `RelationHeads.predict`."""
        return self.predict(self.encoder(images_n3SS, drop_BL2=drop_nL2))


class RelVit:
    """The method; see `Verifiable`.

    Draws: `drop` (n, 1, L, 2), multipliers of branches; `order` (n, N), the patch that each place shows, where patches
    are permuted.
    """

    views = 1

    def __init__(self, setting: Setting, options: RelVitOptions) -> None:
        model = setting.model
        self.setting, self.options, self.taps = setting, options, (model.depth,)
        self.rates = drawing.drop_rates(model.drop_path or 0.0, model.depth)
        encoder = setting.encoder(**options.encoder_kind.switches)
        self.module: nn.Module = RelVitModel(encoder, options, model.width)

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """Heads and the convolution as torch initialises them, all else normal with 0.02."""
        model = self.setting.model
        if name.startswith("encoder.patch_embed."):
            return InitDistribution("uniform", (3 * model.patch_size**2) ** -0.5)
        if not name.startswith("encoder."):
            return InitDistribution("uniform", model.width**-0.5)
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
    ) -> Draws:
        """Draws by sample number: `drop` where blocks drop, `order` where patches are permuted."""
        wanted = {"drop", "order"} if names is None else set(names)
        counts: dict[int, int] = {}
        if "drop" in wanted and any(self.rates):
            counts[Purpose.DROP_PATH] = 2 * len(self.rates)
        if "order" in wanted and self.options.permute:
            counts[Purpose.PATCH_ORDER] = self.setting.patches
        random_bits = view_words(self.setting.seed, numbers.to(device), 1, counts) if counts else {}
        draws: Draws = {}
        if Purpose.DROP_PATH in random_bits:
            draws["drop"] = drawing.drop_path(random_bits[Purpose.DROP_PATH], self.rates, dtype)
        if Purpose.PATCH_ORDER in random_bits:
            draws["order"] = order(random_bits[Purpose.PATCH_ORDER][:, 0])
        return draws

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside; without `drop` no branch is dropped, without `order` patches stay where they are."""
        patches = self.setting.patches
        check_draws(given, {"order": (count, patches), "drop": (count, 1, self.setting.model.depth, 2)}, [])
        if "order" in given and not bool((given["order"].sort(1).values == torch.arange(patches)).all()):
            problem = f"rows are no orders of {patches} patches; each shows every index from 0 once"
            raise SpecError(Fault("draws.order", problem, "fix the array"))
        return given

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """Sum of the tasks' losses, each the mean over the group's patches or pairs."""
        places, drop, model = draws.get("order"), draws.get("drop"), self.setting.model
        shown = self._shown(images, draws)
        predictions = dict(zip(self.options.tasks, forward(shown, None if drop is None else drop[:, 0]), strict=True))
        grid = self.setting.image_size // model.patch_size
        total, scalars = relation_losses(predictions, places, grid=grid, views=self.setting.group)
        return Losses(total, scalars, {task: prediction.detach() for task, prediction in predictions.items()})

    def _shown(self, images: Tensor, draws: Draws) -> Tensor:
        view, places = images[:, 0], draws.get("order")
        return view if places is None else permuted(view, places, self.setting.model.patch_size)

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """The patches as they are permuted."""
        return [Panel(SEEN, self._shown(images, draws))] if "order" in draws else []


def permuted(images_n3SS: Tensor, order_nN: Tensor, patch_size: int) -> Tensor:
    """Images whose place t, row by row, shows patch `order[t]`."""
    n, _, S, _ = images_n3SS.shape
    grid = S // patch_size
    cells = images_n3SS.view(n, 3, grid, patch_size, grid, patch_size).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    index = order_nN[:, :, None, None, None].expand(-1, -1, *cells.shape[2:])
    shown = cells.gather(1, index).view(n, grid, grid, 3, patch_size, patch_size)
    return shown.permute(0, 3, 1, 4, 2, 5).reshape(n, 3, S, S)


def build(setting: Setting) -> RelVit:
    """The method with blank weights."""
    if not isinstance(setting.options, RelVitOptions):
        raise TypeError(f"options {setting.options!r}: RelViT takes RelVitOptions")
    return RelVit(setting, setting.options)
