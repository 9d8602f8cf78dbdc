"""What a user would run instead, for `benchmarks.trainers`; each in a process of its own.

All train on the same random images in memory, in float32 with fused AdamW. MAE: transformers' ViTMAE by its Trainer,
and lightly's modules in a plain loop. GMML: a loop of the structure of the authors' program, where a data set corrupts
image by image with numpy in a worker process, and donors are put in image by image.
"""

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.measuring_process import Turns

SIDE, PATCH, BATCH, IMAGES = 224, 16, 16, 128
WIDTH, DEPTH, HEADS = 192, 6, 3
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 128, 2, 4
LR, BETAS, DECAY, MASKED = 1e-3, (0.9, 0.95), 0.05, 0.75
TAPS = (3, 4, 5, 6)
_NEVER = 10**6
_MEAN, _STD = (np.array(value, np.float32).reshape(3, 1, 1) for value in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
Image = NDArray[np.float32]


class Images(Dataset[Any]):
    """Random images in memory, normalised when they are read, as a user's data set does it."""

    def __init__(self, made: Callable[[Image], Any]) -> None:
        self._pixels = np.random.default_rng(5).integers(0, 256, (IMAGES, 3, SIDE, SIDE), np.uint8)
        self._made = made

    def __len__(self) -> int:
        return _NEVER * BATCH

    def __getitem__(self, index: int) -> Any:
        pixels = self._pixels[index % IMAGES].astype(np.float32) / 255
        return self._made((pixels - _MEAN) / _STD)


def transformers_mae(turns: Turns) -> None:
    """ViTMAE by the Trainer, with its defaults but for what is compared."""
    from transformers import Trainer, TrainerCallback, TrainingArguments, ViTMAEConfig, ViTMAEForPreTraining

    class Callback(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            turns.step_ended()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.step_ended()

    config = ViTMAEConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
        decoder_hidden_size=DECODER_WIDTH, decoder_num_hidden_layers=DECODER_DEPTH,
        decoder_num_attention_heads=DECODER_HEADS, decoder_intermediate_size=4 * DECODER_WIDTH,
        image_size=SIDE, patch_size=PATCH, mask_ratio=MASKED, norm_pix_loss=True,
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is written
        max_steps=_NEVER, per_device_train_batch_size=BATCH, learning_rate=LR, adam_beta1=BETAS[0], adam_beta2=BETAS[1],
        weight_decay=DECAY, max_grad_norm=0, optim="adamw_torch_fused", lr_scheduler_type="cosine",
        remove_unused_columns=False, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    images = Images(lambda image: {"pixel_values": torch.from_numpy(image)})
    Trainer(ViTMAEForPreTraining(config), arguments, train_dataset=images, callbacks=[Callback()]).train()


def lightly_mae(turns: Turns) -> None:
    """An MAE of lightly's modules over timm's encoder."""
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(SIDE, PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0)
    encoder = MaskedVisionTransformerTIMM(vit)
    decoder = MAEDecoderTIMM(
        num_patches=vit.patch_embed.num_patches, patch_size=PATCH, embed_dim=WIDTH, decoder_embed_dim=DECODER_WIDTH,
        decoder_depth=DECODER_DEPTH, decoder_num_heads=DECODER_HEADS, mlp_ratio=4,
    )  # fmt: skip

    def loss(images: Tensor) -> Tensor:
        shape = (len(images), encoder.sequence_length)
        seen, hidden = utils.random_token_mask(shape, MASKED, device=images.device)
        embedded = decoder.embed(encoder.encode(images, idx_keep=seen))
        tokens = utils.set_at_index(utils.repeat_token(decoder.mask_token, shape), seen, embedded)
        predicted = decoder.predict(utils.get_at_index(decoder.decode(tokens), hidden))
        wanted = utils.get_at_index(utils.patchify(images, PATCH), hidden - 1)
        spread, mean = torch.var_mean(wanted, dim=-1, keepdim=True)
        return nn.functional.mse_loss(predicted, (wanted - mean) / (spread + 1e-6) ** 0.5)

    loader = DataLoader(Images(torch.from_numpy), BATCH)
    _train(nn.ModuleList([encoder, decoder]), loss, loader, turns, clip=None)


def plain_gmml(turns: Turns) -> None:
    """GMML with two views as its authors' program is built."""
    model = _Reconstructing()

    def loss(views: list[list[Tensor]]) -> Tensor:
        return torch.stack([_masked_l1(model, *_with_donors(*view)) for view in views]).mean()

    def two_views(image: Image) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [_corrupted(image) for _ in range(2)]

    loader = DataLoader(Images(two_views), BATCH, num_workers=1)
    _train(model, loss, loader, turns, clip=3.0)


class _Reconstructing(nn.Module):
    """A ViT of torch's own blocks, the mean of four of which is turned into pixels."""

    def __init__(self) -> None:
        super().__init__()
        cells = (SIDE // PATCH) ** 2
        self.project = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(torch.zeros(1, cells + 1, WIDTH))
        self.first = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(DEPTH)
        )
        self.norm = nn.LayerNorm(WIDTH)
        hidden = [layer for _ in range(3) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
        self.head, self.pixels = nn.Sequential(*hidden), nn.ConvTranspose2d(WIDTH, 3, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.project(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(images), -1, -1), tokens], dim=1) + self.positions
        taken = []
        for number, block in enumerate(self.blocks, 1):
            tokens = block(tokens)
            if number in TAPS:
                taken.append(tokens)
        found = self.head(self.norm(torch.stack(taken).mean(0))[:, 1:])
        side = SIDE // PATCH
        return self.pixels(found.transpose(1, 2).reshape(len(images), WIDTH, side, side))


def _masked_l1(model: nn.Module, clean: Tensor, corrupted: Tensor, masks: Tensor) -> Tensor:
    return ((model(corrupted) - clean).abs() * masks).sum() / masks.sum()


def _corrupted(image: Image) -> tuple[Tensor, Tensor, Tensor]:
    """Clean, with noise in groups, and where."""
    corrupted, mask = image.copy(), np.zeros(image.shape, np.float32)
    for rows, columns in _groups(mask, np.random.uniform(0.5, 0.75)):
        part = corrupted[:, rows, columns]
        part[:] = np.random.randn(*part.shape)
    return torch.from_numpy(image), torch.from_numpy(corrupted), torch.from_numpy(mask)


def _with_donors(clean: Tensor, corrupted: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With a half of the images corrupted by parts of another one instead."""
    for number in range(len(clean)):
        donor = np.random.randint(len(clean))
        if np.random.rand() < 0.5:
            corrupted[number], masks[number] = clean[number], 0
            for rows, columns in _groups(masks[number], 0.3):
                corrupted[number, :, rows, columns] = clean[donor, :, rows, columns]
    return clean, corrupted, masks


def _groups(mask: Any, share: float) -> Any:
    """Rectangles until a share of the mask, in which they are set, is covered."""
    while mask[0].sum() < share * SIDE * SIDE:
        top, left = np.random.randint(0, SIDE - 1, 2)
        height, width = np.random.randint(1, int(0.3 * SIDE), 2)
        rows, columns = slice(top, min(top + height, SIDE)), slice(left, min(left + width, SIDE))
        mask[:, rows, columns] = 1
        yield rows, columns


def _train(model: nn.Module, loss: Callable[[Any], Tensor], loader: Any, turns: Turns, clip: float | None) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), LR, BETAS, weight_decay=DECAY, fused=True)
    turns.step_ended()
    for batch in loader:
        loss(batch).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        turns.step_ended()


PEERS = {"transformers": transformers_mae, "lightly": lightly_mae, "plain": plain_gmml}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    torch.set_num_threads(1)
    PEERS[parser.parse_args().peer](Turns(BATCH))
