"""Blocks compiled by torch, for `engine.compile`."""

import os
import shutil

from torch import nn

from gmml_cluster.errors import Fault, GmmlError
from gmml_cluster.models.rope_vit import RopeBlock
from gmml_cluster.models.vit import Block

_COMPILERS = ("cc", "gcc", "clang")


def compile_blocks(module: nn.Module) -> None:
    """Have every transformer block of a module compiled at its first call; names, weights and state stay as they are.

    Blocks and not the whole: they are alike, so one compilation serves all of a width, and what is between them (draws,
    masks, the gathering of visible tokens) has shapes of its own in every step.

    Raises:
        GmmlError: this node has no C compiler, which torch needs for it on GPUs too.
    """
    if "CC" not in os.environ and not any(map(shutil.which, _COMPILERS)):
        problem = "this node has no C compiler, with which torch builds kernels"
        raise GmmlError(Fault("engine.compile", problem, "install gcc or set CC there, or write compile: false"))
    for block in module.modules():
        if isinstance(block, (Block, RopeBlock)):
            block.compile()
