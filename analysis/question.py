"""What `scaling predict` is asked: a budget, a loss or a model, and what else is paid for.

Money is a linear function of FLOPs: a chip-hour's price over the FLOPs that it gives at a utilisation. So a
budget in dollars or chip-hours, a price per token, and serving at utilisations and prices of its own
(Sardana et al. 2023, arXiv 2401.00448, section 4) are one `analysis.allocate.Demand` in dollars; where
nothing but FLOPs counts it is in FLOPs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from analysis.allocate import Demand
from analysis.optimum import Cost
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.hardware import Hardware
from scaling.price import PUE, UTILISATION

SOUGHT = ("flops", "dollars", "chip_hours", "loss", "model")
_FLAGS = {
    "flops": "--flops",
    "dollars": "--cost",
    "chip_hours": "--chip-hours",
    "loss": "--loss",
    "model": "--model",
    "infer_tokens": "--infer-tokens",
    "token_price": "--token-price",
    "unique_tokens": "--unique-tokens",
    "dollars_per_hour": "--price",
    "serve_dollars_per_hour": "--serve-price",
    "utilisation": "--utilisation",
    "prefill_utilisation": "--prefill-utilisation",
    "decode_utilisation": "--decode-utilisation",
    "decode_share": "--decode-share",
    "pue": "--pue",
    "devices": "--devices",
}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On what a model is trained and served. Utilisations are model FLOPs over the peak of `precision`."""

    hardware: Hardware
    precision: str = "bf16"
    utilisation: float = UTILISATION
    dollars_per_hour: float | None = None  # None: the table's
    devices: int | None = None
    pue: float = PUE
    serve_hardware: Hardware | None = None  # None: that of training
    serve_dollars_per_hour: float | None = None
    prefill_utilisation: float | None = None  # None: that of training
    decode_utilisation: float | None = None

    @property
    def rate(self) -> float | None:
        """Dollars of a training chip-hour."""
        return self.hardware.dollars_per_hour if self.dollars_per_hour is None else self.dollars_per_hour

    @property
    def serving(self) -> Hardware:
        return self.serve_hardware or self.hardware

    @property
    def serve_rate(self) -> float | None:
        """Dollars of a serving chip-hour: given, else of its own chip, else that of training."""
        if self.serve_dollars_per_hour is not None:
            return self.serve_dollars_per_hour
        return self.serve_hardware.dollars_per_hour if self.serve_hardware else self.rate

    @property
    def flops_per_hour(self) -> float:
        """Training FLOPs of a chip-hour."""
        return 3600 * self.hardware.peak(self.precision) * self.utilisation

    def dollars_per_flop(self) -> float:
        """Of training. Raises UserError where nobody prices the chip."""
        return _priced(self.rate, self.hardware, "--price") / self.flops_per_hour

    def serving_dollars_per_flop(self) -> tuple[float, float]:
        """Of prefill, of decode."""
        rate = _priced(self.serve_rate, self.serving, "--serve-price")
        peak = 3600 * self.serving.peak(self._serving_precision())
        prefill, decode = self.prefill_utilisation, self.decode_utilisation
        cost = rate / peak
        return cost / (prefill or self.utilisation), cost / (decode or self.utilisation)

    def apart(self) -> bool:
        """Whether a FLOP of serving costs something else than one of training."""
        given = (self.serve_hardware, self.serve_dollars_per_hour)
        return any(each is not None for each in (*given, self.prefill_utilisation, self.decode_utilisation))

    def _serving_precision(self) -> str:
        return self.precision if self.precision in self.serving.flops_per_second else "bf16"


def _priced(rate: float | None, chip: Hardware, flag: str) -> float:
    if rate is None:
        raise UserError(f"no list price of {chip.name} is known; give {flag}, dollars per chip-hour.")
    return rate


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that is asked about: parameters by the fit's count, tokens where they are given."""

    name: str
    n: float
    d: float | None = None
    flops_per_token: float | None = None  # None: by the fit's cost curve
    run: RunConfig | None = None  # where it is one of this project


@dataclass(frozen=True, kw_only=True)
class Question:
    """Exactly one of `SOUGHT`; but a model's tokens may be fixed by FLOPs or a loss. `Terms` price it."""

    terms: Terms
    flops: float | None = None  # training FLOPs as the fit counts them, and those of serving where asked for
    dollars: float | None = None
    chip_hours: float | None = None
    loss: float | None = None
    model: Model | None = None
    infer_tokens: float | None = None  # served over the model's life, prompts and answers together
    decode_share: float = 0.5  # of them generated
    token_price: float | None = None  # dollars for each new training token
    unique_tokens: float | None = None  # all the text there is

    def __post_init__(self) -> None:
        asked = [name for name in SOUGHT if getattr(self, name) is not None]
        budgets = [name for name in asked if name != "model"]
        if not asked:
            raise UserError(
                "what to predict is not said; give --flops, --cost, --chip-hours, --loss or --model, or --at "
                "with a table of n and d."
            )
        if len(budgets) > 1:
            first, second = (_FLAGS[name] for name in budgets[:2])
            raise UserError(f"{first} and {second} are two questions; give one of them.")
        if self.model and self.model.d is not None and budgets:
            raise UserError(
                f"--model gives its tokens and {_FLAGS[budgets[0]]} would fix them again; give one of them."
            )
        if self.model and (self.dollars is not None or self.chip_hours is not None):
            raise UserError(
                f"--model with {_FLAGS[budgets[0]]} is not answered; give --flops, --loss or N,TOKENS."
            )
        for name in (*budgets, "infer_tokens", "unique_tokens"):
            _positive(_FLAGS[name], getattr(self, name))
        _price("--token-price", self.token_price, "dollars per training token above 0, or leave it out")
        for name in ("dollars_per_hour", "serve_dollars_per_hour"):
            _price(_FLAGS[name], getattr(self.terms, name), "dollars per chip-hour above 0")
        for name in ("utilisation", "prefill_utilisation", "decode_utilisation"):
            value = getattr(self.terms, name)
            if value is not None and not 0 < value <= 1:
                raise UserError(f"{_FLAGS[name]} is {value:g}; give a fraction above 0 and at most 1.")
        if not 0 <= self.decode_share <= 1:
            raise UserError(f"--decode-share is {self.decode_share:g}; give a share from 0 to 1.")
        if self.terms.devices is not None and self.terms.devices < 1:
            raise UserError(f"--devices is {self.terms.devices}; give a whole number of at least 1.")
        if not 1 <= self.terms.pue < math.inf:
            raise UserError(f"--pue is {self.terms.pue:g}; give a number of at least 1.")
        self.terms.hardware.peak(self.terms.precision)
        if self.infer_tokens is None and self.terms.apart():
            raise UserError(
                "a price or utilisation of serving is given and nothing is served; give --infer-tokens."
            )

    @property
    def currency(self) -> str:
        """ "flops" where nothing is bought but FLOPs of one price, else "dollars"."""
        money = self.dollars is not None or self.token_price is not None or self.terms.apart()
        return "dollars" if money else "flops"

    def demand(self, cost: Cost) -> Demand:
        """Everything that is paid for, in `currency`; `cost`: FLOPs of a training token."""
        tokens = self.infer_tokens or 0.0
        if self.currency == "flops":
            return Demand(cost, served=tokens)
        prefill, decode = self.terms.serving_dollars_per_flop() if tokens else (0.0, 0.0)
        served = tokens * ((1 - self.decode_share) * prefill + self.decode_share * decode)
        return Demand(cost, self.terms.dollars_per_flop(), self.token_price or 0.0, served)

    def budget(self) -> float | None:
        """What may be spent, in `currency`; None where a loss is asked for."""
        if self.loss is not None:
            return None
        if self.dollars is not None:
            return self.dollars
        flops = self.flops if self.chip_hours is None else self.chip_hours * self.terms.flops_per_hour
        return flops if flops is None or self.currency == "flops" else flops * self.terms.dollars_per_flop()

    def of_loss(self, loss: float) -> Question:
        """The same with the loss asked for in place of a model."""
        return replace(self, model=None, flops=None, loss=loss)

    @property
    def extras(self) -> bool:
        """Whether anything but the training's FLOPs counts."""
        return any(each is not None for each in (self.infer_tokens, self.token_price, self.unique_tokens))

    def plain(self) -> dict[str, Any]:
        """As strict JSON."""
        names = (*SOUGHT[:-1], "infer_tokens", "token_price", "unique_tokens")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["decode_share"] = self.decode_share if self.infer_tokens else None
        return found | {"model": None if self.model is None else self.model.name, "currency": self.currency}


def _positive(flag: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        what = "training FLOPs" if flag == "--flops" else "it"
        raise UserError(
            f"{flag} is {value:g}; give a positive number{' of ' + what if what != 'it' else ''}."
        )


def _price(flag: str, value: float | None, way_out: str) -> None:
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"{flag} is {value:g}; give {way_out}.")
