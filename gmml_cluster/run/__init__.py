"""A run as it is kept: its root, its log and what the log says. Knows nothing of training, and imports no torch.

`log.py` appends entries, by the rules of `protocol.py`; `history.py` folds them, `ledger.py` says what they mean.
"""
