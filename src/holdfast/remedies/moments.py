"""The second moment that Adam keeps anyway, taken for importance."""

from __future__ import annotations

import torch

from holdfast._errors import Unsupported
from holdfast.params.fisher import normalised
from holdfast.params.weights import local
from holdfast.remedies.carried import Importance
from holdfast.run import Run


def check_adam(run: Run) -> None:
    """Raise Unsupported, before the first step, where there will be no second moment of the weights themselves."""
    if "betas" not in run.optimizer.defaults:
        raise Unsupported(
            f"estimator adam takes the second moment that Adam keeps; {type(run.optimizer).__name__} keeps none."
        )
    if any(p.lora for p in run.params.values()):
        raise Unsupported(
            "estimator adam knows A and B of a LoRA pair apart, but their product is held back; use `empirical`."
        )


def second_moments(run: Run) -> Importance | None:
    """The running mean of squared gradients of each tensor, all together of mean 1; None where there is none yet.

    It is that of batch gradients, as clipped and with the penalties of other rules, but without pulls, which come after
    the gradient. Normalising takes the bias correction out. What was held all along has none, and counts as 0.
    """
    state = run.optimizer.state
    found = {n: state.get(t, {}).get("exp_avg_sq", torch.zeros(())) for n, t in run.tensors.items()}
    if not any(bool(v.any()) for v in found.values()):
        return None
    return normalised({n: local(v).float().expand(run.tensors[n].shape) for n, v in found.items()})
