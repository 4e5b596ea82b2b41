"""Does the learning rate tuned at two layers hold at eight?

Rate x depth in mup, which knows nothing of depth, and in CompleteP (scaling/parametrisation.py): at one
width, so that mup is the standard parametrisation. Tuned at the shallowest, scored at the deepest.

    scaling plan depth_transfer
    scaling launch depth_transfer
    scaling transfer runs/depth_transfer      # how far each optimum moves, what the tuned rate costs, figure
    scaling preflight depth_transfer --target v5p-128    # --size pod: 12 to 48 layers of width 1024
"""

from __future__ import annotations

from pathlib import Path

from experiments.mup_transfer import crossed, shape, start, tuned
from scaling.parametrisation import Name
from sweeps.sweep import Sweep

QUESTION = "Does the learning rate tuned at two layers hold at eight?"
NAMES: tuple[Name, ...] = ("mup", "completep")

# --size cpu
DEPTHS = (2, 4, 8)
WIDTH, D_HEAD = 64, 16
MIDDLE = 2.0**-7

# --size pod
POD_DEPTHS = (12, 24, 48)
POD_WIDTH, POD_D_HEAD = 1024, 128
POD_MIDDLE = 2.0**-10


def sweep(seed: int = 0, data: str | Path | None = None, size: str = "cpu") -> Sweep:
    """The runs. `data`: a folder made by `scaling data prepare`; `size`: cpu or pod.

    Seeds, data and errors as in `experiments.mup_transfer`.
    """
    base = start(size, data)
    small = size == "cpu"
    depths, lr = (DEPTHS, MIDDLE) if small else (POD_DEPTHS, POD_MIDDLE)
    width, d_head = (WIDTH, D_HEAD) if small else (POD_WIDTH, POD_D_HEAD)
    models = [shape(width, depth, d_head, base.model.vocab_size) for depth in depths]
    runs = {
        f"{name}-L{model.n_layers}": tuned(base, name, model, models[0], lr)
        for name in NAMES
        for model in models
    }
    return crossed("depth_transfer", QUESTION, runs, size, seed)
