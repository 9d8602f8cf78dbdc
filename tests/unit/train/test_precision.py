import torch

from gmml_cluster.train.checkpoints.load_trained import full_precision


def test_fp32_is_not_tf32() -> None:
    full_precision()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
