"""What commands print with `--json`, as types: what prints is checked against them, and schemas are made of them.

A leaf: nothing here imports pydantic, or anything of ours but the errors. `cli/output_schemas.py` makes the schemas.
"""
