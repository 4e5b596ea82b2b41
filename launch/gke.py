"""GKE with TPUs: a JobSet for each run, made and watched with `kubectl`.

The API server keeps one JobSet of a name, and a run's name is its id: of two launchers that create it at the
same time one is told that it is there, which is as good. An ended JobSet of that name is replaced.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import re
import subprocess
import textwrap
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from launch.executor import Live, Submission
from launch.gke_manifest import CONTAINER, FOLDER, RUNS, SUBMISSION, SWEEP, label, manifests, to_yaml
from launch.gke_profile import GkeProfile
from scaling.errors import UserError

__all__ = ["Gke", "GkeProfile"]

JOBSETS = "jobsets.jobset.x-k8s.io"
SECONDS = 120.0  # that kubectl may take
BATCH = 200  # JobSets of one call of kubectl
INDEX = "batch.kubernetes.io/job-completion-index"
_THERE = re.compile(r'"([a-z0-9-]+)" already exists')

# What kubectl says, in the words of the client and of GKE's login plugin, and what to do about it.
_SAID = (
    (("gke-gcloud-auth-plugin", "executable"), "has no credential; install gke-gcloud-auth-plugin"),
    (
        ("Unauthorized", "must be logged in", "You do not currently have an active account", "Reauth"),
        "has no valid credential; run `gcloud auth login` and `gcloud container clusters get-credentials`",
    ),
    (
        ("context was not found", "does not exist", "no context exists"),
        "knows no such context; run `gcloud container clusters get-credentials CLUSTER`",
    ),
    (
        ("Unable to connect", "connection refused", "was refused", "i/o timeout", "no such host"),
        "cannot reach the cluster; check the network, and `context` in the profile",
    ),
    (
        ("no matches for kind", "the server doesn't have a resource type", "could not find the requested"),
        "finds no JobSet on this cluster; install it (https://jobset.sigs.k8s.io/docs/installation)",
    ),
    (("forbidden", "Forbidden"), "is not allowed to do that; ask for the rights that docs/gke.md lists"),
)


class Gke:
    """Cluster: JobSets in the profile's namespace."""

    chains = False  # a JobSet cannot wait for another's checkpoint; `launch.submit` holds branches back

    def __init__(self, profile: GkeProfile, folder: Path) -> None:
        self.profile, self.folder = profile, folder

    def check(self) -> None:
        self._kubectl("get", JOBSETS, f"--selector={SWEEP}=none", "--output=name")

    def render(self, submission: Submission) -> str:
        misfits = [text for job in submission.jobs if (text := self.profile.misfit(job))]
        warning = (
            f"{len(misfits)} of {len(submission.jobs)} runs would be refused: {misfits[0]}" if misfits else ""
        )
        lines = textwrap.wrap(warning, 100, initial_indent="# ", subsequent_indent="# ")
        return "".join(line + "\n" for line in lines) + to_yaml(self._manifests(submission))

    def submit(self, submission: Submission) -> None:
        for job in submission.jobs:
            if misfit := self.profile.misfit(job):
                raise UserError(f"{misfit}; nothing was submitted.")
        wanted = {one["metadata"]["name"]: one for one in self._manifests(submission)}
        try:
            if there := self._create(list(wanted.values())):
                ended = self._replaceable(there)
                self._delete(ended, wait=True)
                self._create([wanted[name] for name in ended])
        except BaseException:
            with contextlib.suppress(UserError):  # the first error is the one to tell
                self._delete([_name(one) for one in self._listed(f"{SUBMISSION}={label(submission.id)}")])
            raise

    def poll(self) -> dict[str, Live]:
        found: dict[str, Live] = {}
        for one in self._listed(f"{SWEEP}={label(self.folder.name)}"):
            if _folder(one) == str(self._pod_folder()) and not _ended(one):
                live = _live(one)
                found |= dict.fromkeys(_runs(one), live)
        return found

    def cancel(self, live: dict[str, Live]) -> None:
        """Deletes the JobSets: their pods get TERM and the profile's grace to save.

        Of runs that share a JobSet all are to be named: the chips are given back together.
        """
        handles = {one.handle for one in live.values()}
        named = set(live)
        for one in self._listed(f"{SWEEP}={label(self.folder.name)}"):
            others = sorted(set(_runs(one)) - named)
            if _name(one) in handles and others and not _ended(one):
                raise UserError(
                    f"run {others[0]} shares the host of one that is to be cancelled; cancel the sweep, or "
                    f"all of {', '.join(_runs(one))}."
                )
        self._delete(sorted(handles))

    def log(self, run_id: str, lines: int) -> str:
        """Of the run's first host; of an earlier attempt nothing is kept by Kubernetes."""
        listed = self._listed(f"{SWEEP}={label(self.folder.name)}")
        handles = [_name(one) for one in listed if run_id in _runs(one)]
        if not handles:
            return ""
        chosen = f"jobset.sigs.k8s.io/jobset-name={handles[0]},jobset.sigs.k8s.io/job-index=0,{INDEX}=0"
        return self._kubectl("logs", f"--selector={chosen}", f"--container={CONTAINER}", f"--tail={lines}")

    def _manifests(self, submission: Submission) -> list[dict[str, Any]]:
        return manifests(submission, self.profile, getpass.getuser())

    def _pod_folder(self) -> PurePosixPath:
        return PurePosixPath(self.profile.runs) / self.folder.name

    def _create(self, wanted: list[dict[str, Any]]) -> list[str]:
        """Create these; the names of those that were there already."""
        there = []
        for start in range(0, len(wanted), BATCH):
            text = to_yaml(wanted[start : start + BATCH])
            done = self._call("create", "--validate=false", "--filename=-", stdin=text)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if line.strip()]
                names = [_THERE.search(line) for line in errors]
                if not errors or not all(names):
                    raise _refused(next(line for line, name in zip(errors, names, strict=True) if not name))
                there += [name[1] for name in names if name]
        return there

    def _replaceable(self, names: list[str]) -> list[str]:
        """Of JobSets that are there, those that have ended. One that trains the run for this folder may stay.

        Raises UserError where it trains it for another folder: its results would never come here.
        """
        ended = []
        for name in names:
            text = self._kubectl("get", JOBSETS, name, "--ignore-not-found", "--output=json")
            one = json.loads(text) if text.strip() else None
            if one is None or _ended(one):
                ended.append(name)
            elif _folder(one) != str(self._pod_folder()):
                raise UserError(
                    f"run {_runs(one)[0]} is trained in {_folder(one)} now (JobSet {name}); wait for it, or "
                    "cancel it there."
                )
        return ended

    def _listed(self, selector: str) -> list[dict[str, Any]]:
        text = self._kubectl("get", JOBSETS, f"--selector={selector}", "--output=json")
        return json.loads(text)["items"] if text.strip() else []

    def _delete(self, names: Iterable[str], *, wait: bool = False) -> None:
        names = list(names)
        for start in range(0, len(names), BATCH):
            some = names[start : start + BATCH]
            self._kubectl("delete", JOBSETS, "--ignore-not-found", f"--wait={str(wait).lower()}", *some)

    def _kubectl(self, *arguments: str) -> str:
        """What kubectl printed. Raises UserError with one sentence when it failed."""
        done = self._call(*arguments)
        if done.returncode:
            raise _refused(done.stderr)
        return done.stdout

    def _call(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = ["kubectl", f"--namespace={self.profile.namespace}"]
        command += [f"--context={self.profile.context}"] if self.profile.context else []
        try:
            return subprocess.run(
                [*command, *arguments], input=stdin, capture_output=True, text=True, timeout=SECONDS
            )
        except FileNotFoundError:
            raise UserError(
                "kubectl is not on PATH; install it (`gcloud components install kubectl`)."
            ) from None
        except subprocess.TimeoutExpired:
            raise UserError(f"kubectl did not answer in {SECONDS:.0f} s; launch again later.") from None


def _refused(said: str) -> UserError:
    """What kubectl wrote on stderr, as one sentence."""
    for marks, sentence in _SAID:
        if any(mark in said for mark in marks):
            return UserError(f"kubectl {sentence}.")
    lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
    return UserError(f"kubectl failed ({lines[-1].strip()}); nothing more was submitted.")


def _name(one: dict[str, Any]) -> str:
    return one["metadata"]["name"]


def _folder(one: dict[str, Any]) -> str:
    return one["metadata"].get("annotations", {}).get(FOLDER, "")


def _runs(one: dict[str, Any]) -> list[str]:
    return one["metadata"].get("annotations", {}).get(RUNS, "").split(",")


def _conditions(one: dict[str, Any]) -> dict[str, str]:
    """Conditions of a JobSet that hold, each with what it says."""
    found = one.get("status", {}).get("conditions", [])
    return {each["type"]: each.get("message", "") for each in found if each.get("status") == "True"}


def _ended(one: dict[str, Any]) -> bool:
    return bool(one.get("status", {}).get("terminalState") or {"Completed", "Failed"} & set(_conditions(one)))


def _live(one: dict[str, Any]) -> Live:
    status, metadata = one.get("status", {}), one["metadata"]
    ready = any(each.get("ready", 0) for each in status.get("replicatedJobsStatus", []))
    running = ready and not one["spec"].get("suspend")
    remark = _conditions(one).get("Suspended", "") if not running else ""
    if not running and not remark:
        remark = "waits for its quota" if one["spec"].get("suspend") else "its pods are not ready yet"
    if "deletionTimestamp" in metadata:
        remark = "being cancelled"
    elif running and status.get("restarts"):
        remark = f"restarted {status['restarts']} times"
    return Live(
        "running" if running else "queued",
        _name(one),
        metadata.get("labels", {}).get(SUBMISSION, ""),
        remark=remark,
    )
