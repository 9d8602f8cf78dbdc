"""Encoders for other programs: timm, transformers, ONNX, safetensors, with a model card."""
