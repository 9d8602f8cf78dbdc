"""Vision transformers with timm's parameter names. Nothing else of ours is imported here."""
