"""What a GKE cluster with TPUs is: the fields of launch/profiles/gke*.toml, and the slice that a run gets."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from launch.executor import Job
from launch.preflight_targets import Target, find_target
from launch.profiles import Profile
from scaling.errors import UserError

# https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus: the label of a node pool of each chip.
ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SOURCES = ("claim", "bucket", "nfs")


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A folder of the pods, from one of three places."""

    mount: str  # absolute path in the pods
    claim: str = ""  # a PersistentVolumeClaim's name: Filestore, Lustre, Hyperdisk ML
    nfs: str = ""  # SERVER:/PATH
    bucket: str = ""  # of Cloud Storage, by gcsfuse: for data that is only read
    read_only: bool = False

    def __post_init__(self) -> None:
        given = [name for name in _SOURCES if getattr(self, name)]
        if len(given) != 1:
            raise UserError(
                f"volumes: {self.mount} is from {' and '.join(given) or 'nowhere'}; give one of "
                f"{', '.join(_SOURCES)}."
            )
        if not PurePosixPath(self.mount).is_absolute():
            raise UserError(f"volumes: mount is {self.mount!r}; give an absolute path in the pods.")
        if self.nfs and not re.fullmatch(r"[^:/]+:/.*", self.nfs):
            raise UserError(f"volumes: nfs is {self.nfs!r}; give SERVER:/PATH.")

    def holds(self, path: PurePosixPath) -> bool:
        return path.is_relative_to(PurePosixPath(self.mount))


@dataclass(frozen=True, kw_only=True)
class GkeProfile(Profile):
    """One kind of slice on one cluster. Empty text leaves a thing out of the manifest."""

    target: str  # the slice that a run gets, as it is rented: v5p-128, v5litepod-256, v6e-8
    slices: int = 1  # so many of them train one run together
    image: str  # container image with this project and jax[tpu] in it
    runs: str  # the folder given as --runs, as the pods see it; it lies on one of the volumes
    volumes: tuple[Volume, ...]
    chips_per_host: int = 0  # 0: four, of a slice of one chip one; 8 for machines ct5lp-hightpu-8t, ct6e-…-8t
    packed: bool = False  # small runs: each takes one chip of a slice of one host, and they share it
    context: str = ""  # of kubectl; empty: the current one
    namespace: str = "default"
    queue: str = ""  # Kueue's LocalQueue
    queue_priority: str = ""  # Kueue's WorkloadPriorityClass
    pod_priority: str = ""  # Kubernetes' PriorityClass, which clusters made by xpk use
    service_account: str = ""  # Kubernetes' own, bound to one of Google Cloud that may read the buckets
    pull_secret: str = ""
    spot: bool = False
    reservation: str = ""
    node_selector: dict[str, str] = field(default_factory=dict)  # further labels of the nodes
    env: dict[str, str] = field(default_factory=dict)  # further variables of the pods: LIBTPU_INIT_ARGS, …
    privileged: bool = False  # needed by GKE before 1.28
    host_network: bool = True  # the network between slices at full rate
    grace_seconds: int = 300  # from TERM to KILL: time for the checkpoint
    keep_hours: float = 12.0  # how long an ended JobSet stays to be looked at
    chip: str = ""  # follows from `target`

    def __post_init__(self) -> None:
        super().__post_init__()
        target = self.slice
        self._check_numbers(target)
        self._check_names()
        self._check_runs()
        if self.slices > 1 and not self.placement.slices:  # what the compiler needs to know of them
            object.__setattr__(self, "placement", replace(self.placement, slices={"data": self.slices}))
        between = math.prod(self.placement.slices.values())
        if between != self.slices:
            raise UserError(
                f"placement.slices spreads a run over {between} slices, slices is {self.slices}; "
                "make them equal."
            )
        object.__setattr__(self, "chip", target.chip)

    @property
    def slice(self) -> Target:
        try:
            return find_target(self.target)
        except UserError as error:  # it speaks of the option that `scaling preflight` has
            raise UserError(str(error).removeprefix("--")) from None

    @property
    def topology(self) -> str:
        """As node pools are labelled: 4x4x4. Google writes the smallest slice of v4 and v5p as 2x2x1."""
        return "x".join(map(str, self.slice.grid))

    @property
    def per_host(self) -> int:
        """Chips of one host."""
        return self.chips_per_host or min(4, self.slice.chips)

    @property
    def hosts(self) -> int:
        """Of one slice."""
        return self.slice.chips // self.per_host

    def misfit(self, job: Job) -> str | None:
        """Why the chips cannot share out a run's batch, in a sentence; None when they can."""
        if self.packed:
            return None
        placement, config = job.placement, job.config
        mesh = placement.mesh or {"fsdp": self.slice.chips}
        if math.prod(mesh.values()) != self.slice.chips:
            return f"placement.mesh {mesh} is not of the {self.slice.chips} chips of {self.target}"
        ways = math.prod(
            sizes.get(axis, 1) for sizes in (mesh, placement.slices) for axis in ("data", "fsdp")
        )
        if config.batch_size % (ways * placement.microbatches):
            return (
                f"run {job.run_id} has batches of {config.batch_size} sequences, which {self.slices} x "
                f"{self.target} would split {ways * placement.microbatches} ways: take a smaller slice, "
                "another placement.mesh, or packed = true"
            )
        return None

    @property
    def chips(self) -> float:
        return 1.0 if self.packed else float(self.slice.chips * self.slices)

    def _check_runs(self) -> None:
        runs = PurePosixPath(self.runs)
        if not runs.is_absolute():
            raise UserError(f"runs is {self.runs!r}; give an absolute path in the pods.")
        below = [volume for volume in self.volumes if volume.holds(runs)]
        if not below:
            raise UserError(
                f"runs is {self.runs!r}, which lies on none of the volumes; give a path below one."
            )
        nearest = max(below, key=lambda volume: len(volume.mount))
        if nearest.bucket or nearest.read_only:
            raise UserError(
                f"runs is {self.runs!r}, on a volume that "
                f"{'is a bucket: those neither append nor lock' if nearest.bucket else 'is read only'}; "
                "give one with `claim` or `nfs`."
            )

    def _check_numbers(self, target: Target) -> None:
        if target.chip not in ACCELERATORS:
            known = ", ".join(ACCELERATORS)
            raise UserError(f"target is {self.target!r}, which is no slice of TPUs; give one of {known}.")
        if self.slices < 1:
            raise UserError(f"slices is {self.slices}; give at least 1.")
        if self.chips_per_host < 0 or target.chips % self.per_host:
            raise UserError(
                f"chips_per_host is {self.chips_per_host}; give a divisor of the {target.chips} chips of "
                f"{self.target}, or 0."
            )
        if self.packed and (self.hosts > 1 or self.slices > 1):
            raise UserError(
                f"packed runs share the chips of one host; {self.slices} x {self.target} has "
                f"{self.hosts * self.slices}: give a slice of one host, as v5p-8, or v6e-8 with "
                "chips_per_host = 8."
            )
        if self.grace_seconds < 1 or not self.keep_hours > 0:
            raise UserError(
                f"grace_seconds is {self.grace_seconds} and keep_hours {self.keep_hours}; give more than 0."
            )

    def _check_names(self) -> None:
        for name in (
            "namespace",
            "queue",
            "queue_priority",
            "pod_priority",
            "service_account",
            "pull_secret",
        ):
            value = getattr(self, name)
            if value and not _NAME.fullmatch(value):
                raise UserError(
                    f"{name} is {value!r}, which names nothing in Kubernetes; use small letters, "
                    "digits and '-'."
                )
        for name, value in self.node_selector.items():
            if not _LABEL.fullmatch(value):
                raise UserError(f"node_selector.{name} is {value!r}, which is no value of a label.")
        if not self.image.strip():
            raise UserError("image is empty; give the container image that has this project in it.")
