"""Does the fitted E meet a truth? Sizes x horizons on text whose entropy rate is known.

The text is the random hierarchy model's (Cagnetta et al. 2024, arXiv:2307.02129) of two levels, in windows
that cut no sample, so that no model is asked for what it cannot have seen. Productions are drawn by a power
of their rank (Cagnetta et al. 2025, arXiv:2505.07067), so that losses fall smoothly with tokens.

    scaling data hierarchy --out prepared/hierarchy
    scaling launch known_entropy --data prepared/hierarchy
    python -m experiments.known_entropy [runs/known_entropy]    # E beside the true rate; exit 1 off it
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

from scaling.data.hierarchy import Hierarchy
from scaling.data.text import text_info
from scaling.errors import UserError
from scaling.recipes import RECIPES
from sweeps.designs import Setting, n_by_d
from sweeps.sweep import Sweep

QUESTION = "Does the fitted E meet the entropy rate of the text?"
SOURCE = Hierarchy(rules=16, levels=2, zipf=3.0)
# Two designs before this one drew three productions evenly: the text was then learnt in steps, which no power
# law follows, and the interval of E was .16 and .27 wide (docs/fitting.md). Width 8 learns this text at a
# rate of its own, so it is not among the widths.
WIDTHS = (12, 16, 20, 24, 32, 48)
TOKENS = (2e5, 4e5, 8e5, 1.6e6, 3.2e6, 6.4e6)
WINDOWS = 2_000  # of validation
BAR, WIDTH_BAR = 0.03, 0.1  # nats per token: error of E, width of its 90% interval


def sweep(seed: int = 0, data: str | Path | None = None) -> Sweep:
    """The grid on the text in `data`. Raises UserError without a text, or for one of another source."""
    make = "make it by `scaling data hierarchy --out prepared/hierarchy` and give --data prepared/hierarchy"
    if data is None:
        raise UserError(f"known_entropy needs a text of known entropy; {make}.")
    text = text_info(data)
    if f"{SOURCE.entropy:.6f} nats" not in text.source:
        raise UserError(f"{data} is not a text of {SOURCE.entropy:.6f} nats per token; {make}.")
    seq_len = 25 * SOURCE.sample_tokens
    recipe = replace(RECIPES["small"], seq_len=seq_len)
    setting = Setting(recipe, text.config(WINDOWS * seq_len), text.epoch_tokens, seed)
    return n_by_d("known_entropy", QUESTION, setting, WIDTHS, TOKENS)


def compare(folder: str) -> int:
    """Print the fitted E, its 90% interval and the true rate, and draw them; 0 where both bars are met."""
    from analysis.fit import fit
    from analysis.plots.truth import truth_figure
    from analysis.table import load

    runs = load(folder)
    law = fit(runs, ["chinchilla"])["laws"]["chinchilla"]
    fitted, (low, high) = law["parameters"]["E"], law["intervals"]["E"]
    error = fitted - SOURCE.entropy
    width = math.inf if low is None or high is None else high - low
    print(f"true entropy rate  {SOURCE.entropy:.4f} nats per token")
    print(
        f"fitted E           {fitted:.4f}, 90% {_end(low)} to {_end(high)}, of {len(law['rows_used'])} runs"
    )
    print(f"error              {error:+.4f} (bar {BAR}), width {width:.4f} (bar {WIDTH_BAR})")
    stem = Path("reports/known_entropy") / Path(folder).name
    points = runs.table[["d", "loss"]].assign(n=runs.n(law["n_count"])[0])
    files = truth_figure(points, law["parameters"], (low, high), SOURCE.entropy, stem)
    print(f"figure             {files[0]}")
    return 0 if abs(error) <= BAR and width <= WIDTH_BAR else 1


def _end(value: float | None) -> str:
    return "open" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(compare(sys.argv[1] if len(sys.argv) > 1 else "runs/known_entropy"))
