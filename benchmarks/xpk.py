"""Slices as this project asks GKE for them, beside what xpk asks for: hosts, chips, topology, exit codes.

    python -m venv /tmp/xpk && /tmp/xpk/bin/pip install xpk
    python -m benchmarks.xpk --xpk /tmp/xpk/bin/xpk

xpk (https://github.com/AI-Hypercomputer/xpk) writes its manifest by `workload create --dry-run
--output-manifest-file`, for which it needs no cluster and no credential; Google's own tool, it is independent
of this one. results/xpk.json holds for each slice what both say, and what differs; 6 s of CPU a slice.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from launch.engines import find_engine
from launch.executor import Job, Submission
from launch.gke_manifest import manifests
from launch.gke_profile import GkeProfile
from launch.jobs import make_job
from launch.profiles import load_profile, shipped
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from scaling.errors import UserError
from scaling.files import write_json

RESULTS = Path(__file__).parent / "results" / "xpk.json"
SLICES: tuple[tuple[str, int], ...] = (
    ("v5p-128", 1), ("v5litepod-256", 1), ("v5p-128", 2),
    ("v5p-8", 1), ("v5p-32", 1), ("v5p-256", 1), ("v5p-384", 1), ("v5p-512", 1), ("v5p-2048", 4),
    ("v5p-12288", 1), ("v4-8", 1), ("v4-64", 1), ("v4-1024", 2), ("v5litepod-16", 1), ("v5litepod-128", 2),
    ("v6e-1", 1), ("v6e-4", 1), ("v6e-64", 1), ("v6e-256", 2),
)  # fmt: skip


def shape(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a JobSet asks of the machines, and which exit codes start it again."""
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    selector = pod["nodeSelector"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    (codes,) = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    return {
        "slices": replicated["replicas"],
        "hosts": job["completions"],
        "parallelism": job["parallelism"],
        "chips_per_host": chips,
        "chips": replicated["replicas"] * job["completions"] * chips,
        "accelerator": selector["cloud.google.com/gke-tpu-accelerator"],
        "topology": selector["cloud.google.com/gke-tpu-topology"],
        "backoff_limit": job["backoffLimit"],
        "restart_policy": pod["restartPolicy"],
        "host_network": pod["hostNetwork"],
        "dns_policy": pod["dnsPolicy"],
        "fails_for_good": [  # a rule's name is a name; xpk leaves it to the cluster
            {key: value for key, value in rule.items() if key != "name"}
            for rule in manifest["spec"]["failurePolicy"]["rules"]
        ],
        "ends_for_good": f"{codes['operator']} {ranges(codes['values'])}",
        "toleration": pod["tolerations"][0]["key"],
        "labelled": "xpk.google.com/workload" in manifest["metadata"]["labels"],
    }


def ranges(values: list[int]) -> str:
    """[42, 127, 128, 129] as 42,127-129."""
    found: list[list[int]] = []
    for value in sorted(values):
        if found and value == found[-1][1] + 1:
            found[-1][1] = value
        else:
            found.append([value, value])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in found)


def ours(target: str, slices: int) -> dict[str, Any]:
    """The manifest of one run on that, of the shipped example of a profile."""
    profile = profile_of(target, slices)
    submission = Submission("id", Path("/runs/sweep"), (job(profile),))
    (manifest,) = manifests(submission, profile, "me")
    return manifest


def profile_of(target: str, slices: int) -> GkeProfile:
    kind = find_engine("gke").profile_type()
    found, _ = load_profile("gke", kind, str(shipped("gke-v5p-128")))
    assert isinstance(found, GkeProfile)
    return replace(found, target=target, slices=slices, placement=replace(found.placement, mesh={}))


def job(profile: GkeProfile) -> Job:
    """A run of some size; what it is has no part in the shape."""
    config = RunConfig(
        model=ModelConfig(n_layers=8, d_model=512, n_heads=4, n_kv_heads=4, d_head=128, d_ff=1408),
        data=DataConfig(name="any", fingerprint=""),
        optimizer=OptimizerConfig(lr=1e-3),
        seq_len=2048,
        batch_size=16384,
        steps=1000,
    )
    return make_job(config, Path("/runs/sweep"), profile.placement)


def theirs(xpk: str, target: str, slices: int) -> dict[str, Any]:
    """The manifest that xpk writes for it. Raises UserError with its last words when it writes none."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifest.yaml"
        command = [xpk, "workload", "create", "--dry-run", "--skip-validation", "--workload=compare"]
        command += ["--cluster=any", "--zone=us-east5-a", "--project=any", "--docker-image=any"]
        command += ["--command=true", "--max-restarts=1", f"--output-manifest-file={file}"]
        command += [f"--tpu-type={target}", f"--num-slices={slices}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if not file.exists():
            said = (done.stdout + done.stderr).strip().splitlines() or ["nothing"]
            raise UserError(f"{xpk} wrote no manifest for {target}; it said: {said[-1]}")
        return yaml.safe_load(file.read_text())


def compare(xpk: str) -> dict[str, Any]:
    version = subprocess.run([xpk, "version"], capture_output=True, text=True).stdout
    named = [line.split(":", 1)[1].strip() for line in version.splitlines() if "xpk_version:" in line]
    rows = []
    for target, slices in SLICES:
        mine, other = shape(ours(target, slices)), shape(theirs(xpk, target, slices))
        differs = {name: [mine[name], other[name]] for name in mine if mine[name] != other[name]}
        rows.append({"target": target, "slices": slices, "xpk": other, "differs": differs})
        print(f"{slices} x {target}: {other['hosts']} hosts of {other['chips_per_host']} chips, "
              f"{other['topology']}: {differs or 'equal'}", file=sys.stderr)  # fmt: skip
    return {
        "xpk": named[0] if named else "",
        "date": datetime.now(UTC).date().isoformat(),
        "different": sum(bool(row["differs"]) for row in rows),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--xpk", required=True, help="the program, in an environment of its own")
    result = compare(parser.parse_args().xpk)
    write_json(RESULTS, result)
    print(f"{len(result['rows'])} slices, {result['different']} different; {RESULTS}")


if __name__ == "__main__":
    main()
