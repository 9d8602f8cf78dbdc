"""The encoders that there are: what a probe, fine-tuning, evaluation and export are given."""

from gmml_cluster.models.rope_vit import RopeEncoder
from gmml_cluster.models.vit import VisionTransformer

AnyEncoder = VisionTransformer | RopeEncoder
"""Both have `prefix_tokens`, `cls_token`, `norm`, `grid` and `patch_size`, and give normed tokens of images."""
