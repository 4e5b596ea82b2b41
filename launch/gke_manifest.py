"""A JobSet for a run on TPU pods, as plain data. Nothing of Kubernetes is needed to make one.

One JobSet is one run: `replicas` slices of `parallelism` hosts, a pod on each, all started again together.
With `packed` it is a few small runs on the chips of one host (`launch/gke_pod.py`).

The run's config travels in the manifest, as a variable of its pods: one object is created or none, so that
creating it decides who submits, nothing is left behind when it goes, and pods need no checkout and no
ConfigMap. A config takes 2 KB; Kubernetes takes objects of 1.5 MB.

Restart rules are xpk's: exit 0 is done, 42 and 127-255 start all of it again, any other code ends it for
good. What Kubernetes itself takes away (drained for maintenance, preempted) is started again whatever its
code. `maxRestarts` counts and must not end a run: host maintenance comes off spot too, and a long run meets
it often. Minutes without a new checkpoint end it instead, by `launch/gke_pod.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Any

import yaml

from launch.executor import Job, Submission
from launch.gke_profile import ACCELERATORS, GkeProfile, Volume
from launch.jobs import train_command
from scaling.config import to_dict
from scaling.runs import EXIT_RESTART

API_VERSION = "jobset.x-k8s.io/v1alpha2"
CONTAINER = "jax-tpu"
SLICE_JOB = "slice-job"
XPK_WORKLOAD = "xpk.google.com/workload"  # `xpk workload list` shows what has it
SWEEP, SUBMISSION, USER = "scaling-sweep", "scaling-submission", "scaling-user"  # labels
FOLDER, RUNS = "scaling-folder", "scaling-runs"  # annotations: values of any length
RUNS_VARIABLE = "SCALING_RUNS"
RESTARTED = (EXIT_RESTART, *range(127, 256))  # as xpk; 128 + n is signal n
MAX_RESTARTS = 1_000_000  # none: minutes end a run
_CONFIGS = PurePosixPath("/tmp/scaling")


def manifests(submission: Submission, profile: GkeProfile, user: str) -> list[dict[str, Any]]:
    """The JobSets of a submission, in its order: one for each run, or for as many as share a host."""
    size = profile.per_host if profile.packed else 1
    jobs = submission.jobs
    groups = [jobs[i : i + size] for i in range(0, len(jobs), size)]
    return [jobset(group, submission, profile, user) for group in groups]


def jobset(jobs: tuple[Job, ...], submission: Submission, profile: GkeProfile, user: str) -> dict[str, Any]:
    """The JobSet of one run, or of several that share a host's chips."""
    name = job_name(jobs, submission, packed=profile.packed)
    labels = {XPK_WORKLOAD: name, SWEEP: label(submission.sweep), SUBMISSION: label(submission.id)}
    labels |= {USER: label(user)}
    queue = {
        "kueue.x-k8s.io/queue-name": profile.queue,
        "kueue.x-k8s.io/priority-class": profile.queue_priority,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": profile.namespace,
            "labels": _given(queue) | labels,
            "annotations": _exclusive(profile)
            | {
                FOLDER: str(pod_folder(submission, profile)),
                RUNS: ",".join(job.run_id for job in jobs),
            },
        },
        "spec": {
            "ttlSecondsAfterFinished": int(3600 * profile.keep_hours),
            "failurePolicy": {
                # A host is free again before the next attempt asks for it.
                "restartStrategy": "BlockingRecreate",
                "maxRestarts": MAX_RESTARTS,
                "rules": [
                    {
                        "name": "endedForGood",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {
                    "name": SLICE_JOB,
                    "replicas": profile.slices,
                    "template": {"spec": _slice_job(name, jobs, submission, profile, labels)},
                }
            ],
        },
    }


def _exclusive(profile: GkeProfile) -> dict[str, str]:
    """Each slice on a node pool of its own, whose hosts are wired to each other; a host alone needs none."""
    if profile.hosts * profile.slices == 1:
        return {}
    return {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}


def _slice_job(
    name: str, jobs: tuple[Job, ...], submission: Submission, profile: GkeProfile, labels: dict[str, str]
) -> dict[str, Any]:
    """The Job of one slice: a pod on each host, none of which goes on without the others."""
    restarts = {"containerName": CONTAINER, "operator": "NotIn", "values": list(RESTARTED)}
    return {
        "parallelism": profile.hosts,
        "completions": profile.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                # Taken away by Kubernetes: counted, which fails the Job and so restarts the set.
                {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": restarts},
            ]
        },
        "template": {
            "metadata": {"labels": labels} | _pod_annotations(profile),
            "spec": _pod(name, jobs, submission, profile),
        },
    }


def _pod_annotations(profile: GkeProfile) -> dict[str, Any]:
    if any(volume.bucket for volume in profile.volumes):  # adds gcsfuse's container to the pod
        return {"annotations": {"gke-gcsfuse/volumes": "true"}}
    return {}


def _pod(name: str, jobs: tuple[Job, ...], submission: Submission, profile: GkeProfile) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[profile.chip],
        "cloud.google.com/gke-tpu-topology": profile.topology,
    }
    tolerations = [{"key": "google.com/tpu", "operator": "Exists"}]
    if profile.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Exists"})
    if profile.reservation:
        selector["cloud.google.com/reservation-name"] = profile.reservation
    mounts, volumes = _volumes(profile.volumes)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": profile.image,
        "command": command(name, jobs, submission, profile),
        "env": _environment(name, jobs, profile),
        "resources": {"limits": {"google.com/tpu": profile.per_host}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, *mounts],
    }
    if profile.privileged:
        container["securityContext"] = {"privileged": True}
    network = {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if profile.host_network else {}
    accounts = _given(
        {"serviceAccountName": profile.service_account, "priorityClassName": profile.pod_priority}
    )
    pull = {"imagePullSecrets": [{"name": profile.pull_secret}]} if profile.pull_secret else {}
    return {
        "restartPolicy": "Never",
        "nodeSelector": selector | profile.node_selector,
        "tolerations": tolerations,
        "terminationGracePeriodSeconds": profile.grace_seconds,
        **network,
        **accounts,
        **pull,
        "containers": [container],
        # libtpu and JAX share memory between processes; a container's own 64 MB is too little.
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}, *volumes],
    }


def command(name: str, jobs: tuple[Job, ...], submission: Submission, profile: GkeProfile) -> list[str]:
    """What every pod runs: `launch/gke_pod.py`, and below it `scaling train` as anybody would type it."""
    folder = pod_folder(submission, profile)
    wrapper = ["python", "-m", "launch.gke_pod", "--folder", str(folder), "--submission", submission.id]
    wrapper += ["--retry-minutes", f"{profile.retry_minutes:g}"]
    if profile.packed:
        return [*wrapper, "--packed", name]
    (job,) = jobs
    config = _CONFIGS / f"{job.run_id}.json"
    train = [*train_command(config, folder, job.placement)]
    if profile.hosts * profile.slices > 1:
        train.append("--cluster")
    return [*wrapper, "--", *train]


def _environment(name: str, jobs: tuple[Job, ...], profile: GkeProfile) -> list[dict[str, Any]]:
    """Variables of every pod.

    GKE itself gives pods that ask for TPUs in a JobSet what a slice needs (TPU_WORKER_ID,
    TPU_WORKER_HOSTNAMES), from which `jax.distributed.initialize()` finds its peers. Between slices libtpu
    and JAX read MEGASCALE_*; JobSet does not give them (kubernetes-sigs/jobset issue 787), so they are here.
    """
    runs = [
        {"run_id": job.run_id, "config": to_dict(job.config), "placement": to_dict(job.placement)}
        for job in jobs
    ]
    text = json.dumps(runs, separators=(",", ":"), allow_nan=False)
    given: dict[str, str] = {RUNS_VARIABLE: text.replace("$", "$$")} | profile.env  # $(X) would be expanded
    fields = {
        "NODE_NAME": "spec.nodeName",
        "RESTART_ATTEMPT": "metadata.labels['jobset.sigs.k8s.io/restart-attempt']",
    }
    given["SLICE_HOSTS"] = str(profile.hosts)
    if profile.slices > 1:
        given |= {
            "MEGASCALE_NUM_SLICES": str(profile.slices),
            # The first pod's name in the network that JobSet makes for its pods.
            "MEGASCALE_COORDINATOR_ADDRESS": f"{name}-{SLICE_JOB}-0-0.{name}",
        }
        fields["MEGASCALE_SLICE_ID"] = "metadata.labels['jobset.sigs.k8s.io/job-index']"
    return [
        *({"name": key, "value": value} for key, value in given.items()),
        *({"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()),
    ]


def _volumes(volumes: tuple[Volume, ...]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Where the volumes are mounted, and where they come from."""
    mounts, sources = [], []
    for number, volume in enumerate(volumes):
        mount: dict[str, Any] = {"name": f"volume-{number}", "mountPath": volume.mount}
        mounts.append(mount | ({"readOnly": True} if volume.read_only else {}))
        source: dict[str, Any] = {"name": f"volume-{number}"}
        if volume.claim:
            source["persistentVolumeClaim"] = {"claimName": volume.claim}
        elif volume.nfs:
            server, _, path = volume.nfs.partition(":")
            source["nfs"] = {"server": server, "path": path}
        else:
            attributes = {"bucketName": volume.bucket, "mountOptions": "implicit-dirs"}
            source["csi"] = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}
        if volume.read_only and volume.bucket:
            source["csi"]["readOnly"] = True
        sources.append(source)
    return mounts, sources


def job_name(jobs: tuple[Job, ...], submission: Submission, *, packed: bool) -> str:
    """The JobSet's name: the run's, so that the cluster itself refuses a second one; a pack's is its own.

    A name in Kubernetes starts with a letter, and the cluster adds up to 40 of its 63 characters.
    """
    if not packed:
        return f"run-{jobs[0].run_id}"
    runs = ",".join([submission.id, *(job.run_id for job in jobs)])
    return f"pack-{hashlib.sha256(runs.encode()).hexdigest()[:12]}"


def pod_folder(submission: Submission, profile: GkeProfile) -> PurePosixPath:
    """The sweep's folder as the pods see it."""
    return PurePosixPath(profile.runs) / submission.sweep


def label(text: str) -> str:
    """`text` as a label's value: 63 characters at most, the first and last of them letters or digits."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", text)
    if len(plain) > 63:
        plain = f"{plain[:50]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return plain.strip("-_.")


def to_yaml(manifest: list[dict[str, Any]]) -> str:
    """The manifests as one YAML stream, which `kubectl create -f` takes."""
    return yaml.dump_all(manifest, Dumper=_Dumper, sort_keys=False, width=100, explicit_start=True)


class _Dumper(yaml.SafeDumper):
    """Numbers of a list side by side: there are 130 exit codes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def numbers(self, values: list[Any]) -> yaml.Node:
        flow = bool(values) and all(isinstance(value, int) for value in values)
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flow)


_Dumper.add_representer(list, _Dumper.numbers)


def _given(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
