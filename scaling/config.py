"""What a run is (`RunConfig`, hashed) and how it is run (`Placement`, recorded, never hashed).

`RunConfig` holds everything that changes the result and nothing else, so that two configs with
the same `run_id` are the same experiment wherever they run. This module imports neither JAX nor
any other part of the project: planners and analysts read configs without a device.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import reprlib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any, Literal

from scaling.arch.activations import ACTIVATIONS
from scaling.arch.norms import NORMS
from scaling.errors import UserError

# Raised when the golden training step changes, so that old and new results never share a name.
NUMERICS_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder. `d_head * n_heads` need not equal `d_model`."""

    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_ff: int
    n_kv_heads: int  # == n_heads: multi-head; fewer: grouped-query; 1: multi-query attention
    vocab_size: int = 256
    mlp: str = "swiglu"  # a row of scaling.arch.activations
    norm: str = "rms"  # a row of scaling.arch.norms
    tied: bool = True  # the head reuses the token table
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    qk_norm: bool = False  # RMSNorm of every query and key head before rotation (Henry et al. 2020)
    document_mask: bool = False  # attention ends at the separator (token 0) that opens a document
    windows: tuple[int, ...] = ()  # layer i sees windows[i % len] last tokens, itself among them; 0: all
    attention_cap: float = 0.0  # cap * tanh(logits / cap) of attention (Gemma 2); 0 switches it off
    logit_cap: float = 0.0  # the same of the head's logits


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which tokens. The fingerprint is a hash of text and tokenizer; where they lie is `Placement`'s."""

    name: str
    fingerprint: str
    tokenizer: str = "bytes"  # as the prepared folder names it: bpe-4096-<hash>, kind-vocabulary-hash
    val_tokens: int = 262_144  # fixed validation tokens behind the final loss
    unique_tokens: int = 0  # train on only so many, from the beginning of the text; 0: all
    epochs: int = 1  # passes over them that the run may make

    @property
    def vocab_size(self) -> int:
        """Tokens of the tokenizer, from its name. Raises UserError for a name that tells none."""
        if self.tokenizer == "bytes":
            return 256
        _, _, rest = self.tokenizer.partition("-")
        size, _, digest = rest.partition("-")
        if not (size.isdecimal() and digest):
            raise UserError(
                f"data.tokenizer is {_short(self.tokenizer)}; give bytes, or the name that "
                f"`scaling data show` prints."
            )
        return int(size)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One rate for every parameter but for the factors of the parametrisation.

    Weight decay is multiplied by the learning rate (`optax.adamw`), or, where it is independent, by the
    schedule's fraction of the peak alone (Wortsman et al. 2023, section 3.2.2): then it is the share of a
    weight that a step at the peak takes off, 1e-4 or so.
    """

    lr: float  # the peak; of the base model where there is one
    name: Literal["adamw", "lion", "muon", "adafactor"] = "adamw"
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0  # global gradient norm; 0 switches clipping off
    independent_decay: bool = False


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the run, in fractions of its horizon so that it follows the horizon."""

    name: Literal["cosine", "wsd", "constant", "inverse_sqrt"] = "cosine"
    warmup: float = 0.1  # fraction of steps, linear from 0
    warmup_steps: int = 0  # above 0 it stands for `warmup`: runs of several horizons then begin alike
    decay: float = 0.2  # wsd: fraction of steps in the final cooldown; 1: all after the warmup
    cooldown: Literal["linear", "sqrt"] = "linear"  # wsd: its form; sqrt: 1 - square root of its progress
    final: float = 0.1  # last rate as a fraction of the peak: cosine and wsd


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. D in tokens is `batch_size * seq_len * steps`."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seq_len: int
    batch_size: int  # sequences per step
    steps: int
    seed: int = 0
    z_loss: float = 0.0  # weight of (log Z)^2, descended but not logged (Chowdhery et al. 2022, section 5)
    parametrisation: Literal["standard", "mup", "completep"] = "standard"  # scaling/parametrisation.py
    base_d_model: int = 0  # shape at which the rates were tuned; 0: the model's own
    base_n_layers: int = 0  # completep alone
    base_d_head: int = 0
    numerics_version: int = NUMERICS_VERSION

    def __post_init__(self) -> None:
        model, schedule = self.model, self.schedule
        for name in ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "vocab_size"):
            _at_least(f"model.{name}", getattr(model, name), 1)
        for name in ("seq_len", "batch_size", "steps"):
            _at_least(name, getattr(self, name), 1)
        _at_least("data.unique_tokens", self.data.unique_tokens, 0)
        _at_least("data.epochs", self.data.epochs, 1)
        if model.n_heads % model.n_kv_heads:
            raise UserError(
                f"model.n_kv_heads is {model.n_kv_heads}; give a divisor of model.n_heads = {model.n_heads}."
            )
        if model.d_head % 2:
            raise UserError(f"model.d_head is {model.d_head}; rotary embeddings need an even head size.")
        _one_of("model.mlp", model.mlp, ACTIVATIONS)
        _one_of("model.norm", model.norm, NORMS)
        for name in ("attention_cap", "logit_cap"):
            _positive_or_zero(f"model.{name}", getattr(model, name))
        _positive_or_zero("z_loss", self.z_loss)
        if any(window < 0 for window in model.windows):
            raise UserError(f"model.windows is {list(model.windows)}; give sizes in tokens, 0 for no window.")
        if model.vocab_size < (needed := self.data.vocab_size):
            raise UserError(
                f"model.vocab_size is {model.vocab_size}; tokenizer {self.data.tokenizer} of data "
                f"{self.data.name!r} needs at least {needed}."
            )
        if not 0 < self.optimizer.lr < math.inf:
            raise UserError(f"optimizer.lr is {self.optimizer.lr}; give a positive learning rate.")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self.optimizer, name) < 1:
                raise UserError(f"optimizer.{name} is {getattr(self.optimizer, name)}; give 0 <= {name} < 1.")
        for name in ("warmup", "decay", "final"):
            if not 0 <= getattr(schedule, name) <= 1:
                raise UserError(f"schedule.{name} is {getattr(schedule, name)}; give a fraction from 0 to 1.")
        _at_least("schedule.warmup_steps", schedule.warmup_steps, 0)
        self._check_base()

    def _check_base(self) -> None:
        """A base that changes nothing is refused: two names would be one run."""
        widths = ("d_model", "d_head")
        used = {"standard": (), "mup": widths, "completep": (*widths, "n_layers")}[self.parametrisation]
        for name in ("d_model", "d_head", "n_layers"):
            base, own = getattr(self, f"base_{name}"), getattr(self.model, name)
            _at_least(f"base_{name}", base, 0)
            if base and name not in used:
                raise UserError(
                    f"base_{name} is {base}; parametrisation {self.parametrisation} has none, leave it 0."
                )
            # Depths need not divide: 1/m_L is of no array's size.
            if base and name != "n_layers" and own % base and base % own:
                raise UserError(
                    f"base_{name} is {base}; give a divisor or a multiple of model.{name} = {own}."
                )

    @property
    def tokens(self) -> int:
        """D: training tokens."""
        return self.batch_size * self.seq_len * self.steps

    @cached_property
    def run_id(self) -> str:
        """12 hex digits of the SHA-256 of the canonical JSON, fields at their default left out."""
        # The version is always in: its default moves, and old results must keep their old names.
        identity = _identity(self) | {"numerics_version": self.numerics_version}
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a run is run. Changes speed and rounding order, never the experiment; not hashed."""

    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    mesh: dict[str, int] = field(default_factory=dict)  # mesh axis -> size; {} = all devices on "fsdp"
    slices: dict[str, int] = field(default_factory=dict)  # the same between slices, over the slower network
    threads: int = 1  # XLA CPU threads; one is what makes a resume bitwise (0 = all cores)
    microbatches: int = 1  # gradient accumulation; above 1 the gradient noise scale is logged
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on accelerators
    remat: Literal["none", "dots", "attention", "full"] = "none"  # see scaling.model.execution
    attention: Literal["auto", "plain", "fused"] = "auto"  # auto: fused where scaling.kernels has one for it
    loss_chunks: int = 0  # the head and the loss in this many parts of a sequence; 0: as memory asks
    data_path: str | None = None  # folder written by `scaling data prepare`; None = embedded text
    checkpoint_seconds: float = 30.0
    keep_steps: tuple[int, ...] = ()  # checkpoints of these steps are made and kept: where branches leave
    keep_every: int = 0  # and every so many steps; 0: the newest two alone
    hang_seconds: float = 300.0  # no step for so long, and for 20 median steps, is a hang; 0: never
    wandb: Literal["off", "offline", "online"] = "off"
    wandb_project: str = "scaling"

    def __post_init__(self) -> None:
        _at_least("placement.microbatches", self.microbatches, 1)
        _at_least("placement.threads", self.threads, 0)
        _at_least("placement.loss_chunks", self.loss_chunks, 0)
        _at_least("placement.keep_every", self.keep_every, 0)
        for step in self.keep_steps:
            _at_least("placement.keep_steps", step, 1)
        for name in ("mesh", "slices"):
            for axis, size in getattr(self, name).items():
                _at_least(f"placement.{name}.{axis}", size, 1)
        for name in ("checkpoint_seconds", "hang_seconds"):
            if not getattr(self, name) >= 0:
                raise UserError(f"placement.{name} is {getattr(self, name)}; give 0 or more seconds.")


def kept(placement: Placement, step: int) -> bool:
    """Whether a placement asks for the checkpoint of `step` to be made and kept."""
    every = placement.keep_every
    return step in placement.keep_steps or (every > 0 and step % every == 0)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict of a config dataclass, every field present, as JSON would give it back."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def from_dict(cls: type, values: dict[str, Any], where: str = "") -> Any:
    """Build a config dataclass from nested plain data.

    Raises UserError naming an unknown, missing or mistyped field by its dotted path.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where or cls.__name__} is {_short(values)}; give an object of fields.")
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise UserError(
                f"unknown config field {_dot(where, name)!r}; "
                f"{where or cls.__name__} has {', '.join(fields)}."
            )
    built = {}
    for name, spec in fields.items():
        if name in values:
            built[name] = _coerce(hints[name], values[name], _dot(where, name))
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise UserError(f"config field {_dot(where, name)!r} is missing; give it a value.")
    return cls(**built)


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Evaluating annotations costs more than all the rest, and a folder may hold 100,000 configs."""
    return typing.get_type_hints(cls)


def override(config: RunConfig, assignments: dict[str, Any]) -> RunConfig:
    """`override(config, {"optimizer.lr": 3e-4})`: a copy with dotted fields replaced, type-checked."""
    values = to_dict(config)
    for path, value in assignments.items():
        target = values
        *parents, last = path.split(".")
        for name in parents:
            if not isinstance(target.get(name), dict):
                raise UserError(f"unknown config field {path!r}; name one like optimizer.lr or steps.")
            target = target[name]
        target[last] = value
    return from_dict(RunConfig, values)


def nested(assignments: dict[str, Any]) -> dict[str, Any]:
    """`nested({"mesh.fsdp": 4})` is {"mesh": {"fsdp": 4}}."""
    out: dict[str, Any] = {}
    for path, value in assignments.items():
        target = out
        *parents, last = path.split(".")
        for name in parents:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise UserError(f"{path!r} lies below {name!r}, which has a value; keep one of them.")
        target[last] = value
    return out


def load_run_config(text: str, source: str = "config") -> RunConfig:
    """Parse a RunConfig from JSON text; `source` names the file in errors."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source} is not JSON ({error}); give a file written by `scaling predict --run-config`."
        ) from None
    return from_dict(RunConfig, values)


def dump_run_config(config: RunConfig) -> str:
    return json.dumps(to_dict(config), indent=2) + "\n"


def _at_least(where: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{where} is {value}; give a whole number of at least {least}.")


def _one_of(where: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UserError(f"{where} is {value!r}; choose from {', '.join(choices)}.")


def _positive_or_zero(where: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise UserError(f"{where} is {value}; give a positive number, or 0 to switch it off.")


def _dot(where: str, name: str) -> str:
    return f"{where}.{name}" if where else str(name)


def _short(value: Any) -> str:
    """A value as an error quotes it: on one line, however long it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "too long to print"


@lru_cache(4096)
def _part(cls: type, text: str) -> Any:
    """A nested config, made once however many of a sweep's runs have it; configs do not change."""
    return from_dict(cls, json.loads(text))


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        try:
            return _part(typing.cast(type, hint), json.dumps(value))
        except (TypeError, UserError):  # what JSON does not hold, or is wrong, is said with its place
            return from_dict(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(map(str, typing.get_args(hint)))
            raise UserError(f"{where} is {_short(value)}; choose from {choices}.")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} is {_short(value)}; give a list of values.")
        of_item = typing.get_args(hint)[0]
        return tuple(_coerce(of_item, item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where} is {_short(value)}; give an object of names and values.")
        of_value = typing.get_args(hint)[1]
        return {str(name): _coerce(of_value, item, _dot(where, name)) for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
        value = float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, hint) or isinstance(value, bool) is not (hint is bool):
        raise UserError(f"{where} is {_short(value)}; give a value of type {hint.__name__}.")
    if hint is float and not math.isfinite(value):
        raise UserError(f"{where} is {value}; give a finite number.")
    if hint is int and abs(value) >= 2**63:
        raise UserError(f"{where} is {_short(value)}; give a number that fits 64 bits.")
    return value


def _identity(config: Any) -> dict[str, Any]:
    """Fields not at their default, typed as config.json has them: lr=1 and lr=1.0 are one run."""
    cls: Any = type(config)
    out: dict[str, Any] = {}
    for name, default, nested in _fields(cls):
        value = getattr(config, name)
        if value is default or value == default:
            continue
        if nested:
            out[name] = _identity_of_part(value)
        else:
            out[name] = _coerce(_hints(cls)[name], _plain(value), name)
    return out


@lru_cache(4096)
def _identity_of_part(part: Any) -> dict[str, Any]:
    """Runs of a sweep share most of their nested configs, and a sweep may have 10,000 runs."""
    return _identity(part)


@cache
def _fields(cls: type) -> list[tuple[str, Any, bool]]:
    """Name, default (MISSING where there is none) and whether it is itself a config, of every field."""
    return [
        (
            spec.name,
            spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default,
            dataclasses.is_dataclass(_hints(cls)[spec.name]),
        )
        for spec in dataclasses.fields(cls)
    ]
