"""What a reduced model costs (flops.py) and how fast it is (throughput.py). Neither needs data or a trained model."""

__all__ = ["NotCompiled"]


class NotCompiled(RuntimeError):
    """torch.compile failed."""
