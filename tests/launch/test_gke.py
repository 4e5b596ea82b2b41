"""JobSets for TPU slices: against JobSet's schema, xpk's manifests, and through a real `kubectl`."""

from __future__ import annotations

import copy
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kube_server import Api, serving
from tiny import tiny
from typer.testing import CliRunner

from benchmarks.xpk import shape
from launch.engines import find_engine
from launch.executor import Submission
from launch.gke import Gke
from launch.gke_manifest import manifests, to_yaml
from launch.gke_profile import GkeProfile, Volume
from launch.jobs import make_job
from launch.profiles import load_profile, shipped
from scaling.cli.main import app
from scaling.config import Placement, RunConfig, from_dict
from scaling.errors import UserError

XPK = json.loads((Path(__file__).parents[2] / "benchmarks/results/xpk.json").read_text())
FOLDER = Path("/home/me/runs/sweep")
EXAMPLES = ("gke", "gke-v5litepod-256", "gke-v5p-128", "gke-2x-v5p-128")


def example(name: str = "gke-v5p-128", **changes: Any) -> GkeProfile:
    found, _ = load_profile("gke", find_engine("gke").profile_type(), str(shipped(name)))
    assert isinstance(found, GkeProfile)
    return replace(found, **changes)


def submission(profile: GkeProfile, runs: int = 1, folder: Path = FOLDER, id: str = "s1") -> Submission:
    configs = [tiny(batch_size=512, seed=seed) for seed in range(runs)]
    return Submission(id, folder, tuple(make_job(one, folder, profile.placement) for one in configs))


def rendered(profile: GkeProfile, runs: int = 1) -> list[dict[str, Any]]:
    return manifests(submission(profile, runs), profile, "me")


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    return pod(manifest)["containers"][0]


def variables(manifest: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container(manifest)["env"]}


EVERYTHING = example(
    "gke-2x-v5p-128",
    spot=True,
    reservation="mine",
    privileged=True,
    pull_secret="pull",
    service_account="account",
    pod_priority="high",
    context="there",
    node_selector={"cloud.google.com/gke-nodepool": "pool"},
    env={"LIBTPU_INIT_ARGS": "--xla_tpu_x=true", "PRICE": "$(HOME) $5"},
    volumes=(
        Volume(mount="/mnt/runs", nfs="10.0.0.2:/share"),
        Volume(mount="/mnt/data", bucket="data", read_only=True),
        Volume(mount="/mnt/more", claim="more"),
    ),
)


@pytest.fixture(scope="module")
def jobset() -> jsonschema.Draft7Validator:
    """JobSet's own, with fields that it does not name refused: Kubernetes would drop them without a word."""
    folder = os.environ.get("SCALING_PUBLISHED_DATA")
    if not folder:
        pytest.skip("SCALING_PUBLISHED_DATA is unset: JobSet's schema is not part of the project")
    definition = yaml.load((Path(folder) / "jobset-crd.yaml").read_text(), yaml.CSafeLoader)
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1alpha2"]
    found = _closed(version["schema"]["openAPIV3Schema"])
    found["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft7Validator(found)


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {name: _closed(value) for name, value in node.items()}
    if isinstance(found.get("properties"), dict) and "type" in found:
        found.setdefault("additionalProperties", False)
    if found.pop("x-kubernetes-int-or-string", False):
        found.pop("type", None)
    return found


@pytest.mark.parametrize("profile", [*map(example, EXAMPLES), EVERYTHING], ids=[*EXAMPLES, "everything"])
def test_manifests_are_valid_by_the_schema_of_jobset(
    profile: GkeProfile, jobset: jsonschema.Draft7Validator
) -> None:
    for manifest in rendered(profile, runs=9):
        assert [error.message for error in jobset.iter_errors(manifest)] == []
    wrong = copy.deepcopy(rendered(profile)[0])
    pod(wrong)["restartPolizy"] = "Never"
    wrong["spec"]["replicatedJobs"][0]["replicas"] = "two"
    messages = " ".join(error.message for error in jobset.iter_errors(wrong))
    assert "restartPolizy" in messages and "'two' is not of type 'integer'" in messages


@pytest.mark.parametrize("row", XPK["rows"], ids=lambda row: f"{row['slices']}x{row['target']}")
def test_a_slice_is_asked_for_as_xpk_does(row: dict[str, Any]) -> None:
    profile = example(
        target=row["target"], slices=row["slices"], placement=Placement(device="tpu", threads=0)
    )
    assert shape(rendered(profile)[0]) == row["xpk"]


def test_one_manifest_is_one_run_named_after_it() -> None:
    """Names of Kubernetes start with a letter, and JobSet adds to them the names of its jobs and pods."""
    profile = example()
    made = rendered(profile, runs=3)
    jobs = submission(profile, runs=3).jobs
    assert [one["metadata"]["name"] for one in made] == [f"run-{job.run_id}" for job in jobs]
    labels = made[0]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "multislice-queue"
    assert labels["kueue.x-k8s.io/priority-class"] == "scaling-high"
    assert labels["xpk.google.com/workload"] == made[0]["metadata"]["name"]
    assert labels["scaling-sweep"] == "sweep" and labels["scaling-user"] == "me"


def test_the_config_in_a_manifest_is_the_run() -> None:
    """No checkout and no other object: what the pods train is in the manifest, whole."""
    for profile in (example(), example("gke")):
        jobs = submission(profile, runs=8).jobs
        found = [run for made in rendered(profile, 8) for run in json.loads(variables(made)["SCALING_RUNS"])]
        assert [from_dict(RunConfig, run["config"]) for run in found] == [job.config for job in jobs]
        assert [from_dict(Placement, run["placement"]) for run in found] == [job.placement for job in jobs]


def test_hosts_are_told_of_each_other_and_slices_of_slices() -> None:
    one, two = rendered(example())[0], rendered(example("gke-2x-v5p-128"))[0]
    assert "--cluster" in container(one)["command"] and "--cluster" in container(two)["command"]
    assert not any(name.startswith("MEGASCALE") for name in variables(one))
    given, name = variables(two), two["metadata"]["name"]
    assert given["MEGASCALE_NUM_SLICES"] == "2"
    assert given["MEGASCALE_COORDINATOR_ADDRESS"] == f"{name}-slice-job-0-0.{name}"
    assert given["MEGASCALE_SLICE_ID"]["fieldRef"]["fieldPath"].endswith("jobset.sigs.k8s.io/job-index']")
    alone = rendered(example(target="v5p-8", placement=Placement(device="tpu")))[0]
    assert "--cluster" not in container(alone)["command"]


def test_what_kubernetes_takes_away_comes_before_exit_codes() -> None:
    """A pod drained for maintenance may end with 1: the rule that matches first decides."""
    rules = rendered(example())[0]["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"][
        "rules"
    ]
    assert rules[0] == {
        "action": "Count",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    codes = rules[1]["onExitCodes"]
    ends = {code for code in range(256) if code and code not in codes["values"]}
    assert codes["operator"] == "NotIn" and rules[1]["action"] == "FailJob"
    assert {1, 2, 3, 126} <= ends and not ends & {42, 127, 134, 137, 143, 255}


def test_small_runs_share_a_host() -> None:
    made = rendered(example("gke"), runs=20)
    assert [len(json.loads(variables(one)["SCALING_RUNS"])) for one in made] == [8, 8, 4]
    assert all(container(one)["resources"]["limits"] == {"google.com/tpu": 8} for one in made)
    assert example("gke").chips == 1.0 and example("gke-2x-v5p-128").chips == 128.0


def test_a_batch_that_the_chips_cannot_share_is_refused() -> None:
    profile = example(placement=Placement(device="tpu", mesh={"fsdp": 32, "tensor": 2}))
    job = make_job(tiny(batch_size=48), FOLDER, profile.placement)
    engine = Gke(profile, FOLDER)
    assert "would be refused" in engine.render(Submission("s", FOLDER, (job,)))
    with pytest.raises(UserError, match="32 ways"):
        engine.submit(Submission("s", FOLDER, (job,)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "v5p-100"}, "no slice of v5p"),
        ({"target": "h100-8"}, "no slice of TPUs"),
        ({"slices": 0}, "slices is 0"),
        ({"chips_per_host": 3}, "divisor of the 64 chips"),
        ({"packed": True}, "one host"),
        ({"queue": "My_Queue"}, "queue is 'My_Queue'"),
        ({"runs": "/elsewhere"}, "none of the volumes"),
        ({"runs": "runs"}, "absolute path"),
        ({"volumes": (Volume(mount="/mnt/runs", bucket="b"),)}, "neither append nor lock"),
        ({"image": " "}, "image is empty"),
        ({"placement": Placement(slices={"data": 3})}, "3 slices, slices is 1"),
        ({"retry_minutes": -1.0}, "retry_minutes"),
    ],
)
def test_a_profile_says_what_is_wrong_with_it(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        example(**changes)


def test_a_volume_is_from_one_place() -> None:
    with pytest.raises(UserError, match="claim and nfs"):
        Volume(mount="/mnt", claim="c", nfs="s:/p")


def test_dry_run_prints_the_manifests_without_kubectl(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["launch", "quickstart", "--on", "gke", "--dry-run"])
    assert done.exit_code == 0, done.output
    shown = list(yaml.safe_load_all(done.stdout))
    assert {one["kind"] for one in shown} == {"JobSet"}
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    with serving() as found:
        found.configure(tmp_path / "kubeconfig", monkeypatch)
        yield found


def running(api: Api, name: str) -> None:
    api.jobsets[name]["status"] = {"replicatedJobsStatus": [{"name": "slice-job", "ready": 1}], "restarts": 2}


def ended(api: Api, name: str, how: str) -> None:
    api.jobsets[name]["status"] = {"terminalState": how, "conditions": [{"type": how, "status": "True"}]}


def test_kubectl_sends_what_was_rendered(api: Api) -> None:
    """kubectl's own reader of YAML, in Go, finds in the text what is in the dict."""
    engine, one = Gke(replace(EVERYTHING, context="here"), FOLDER), submission(EVERYTHING, runs=2)
    engine.check()
    engine.submit(one)
    for manifest in yaml.safe_load_all(engine.render(one)):
        sent = copy.deepcopy(api.jobsets[manifest["metadata"]["name"]])
        for added in ("uid", "resourceVersion"):
            del sent["metadata"][added]
        assert sent == manifest
    assert to_yaml(rendered(EVERYTHING, 2)).count("\n---\n") == 1


def test_a_run_is_queued_running_ended_and_cancelled(api: Api) -> None:
    profile = example()
    engine, one = Gke(profile, FOLDER), submission(profile, runs=3)
    engine.submit(one)
    waiting, going, over = (f"run-{job.run_id}" for job in one.jobs)
    api.jobsets[waiting]["spec"]["suspend"] = True  # as Kueue does until there is room
    running(api, going)
    ended(api, over, "Completed")
    live = engine.poll()
    assert {name: one.state for name, one in live.items()} == {
        one.jobs[0].run_id: "queued",
        one.jobs[1].run_id: "running",
    }
    assert live[one.jobs[0].run_id].remark == "waits for its quota"
    assert live[one.jobs[1].run_id].remark == "restarted 2 times"
    assert {each.submission for each in live.values()} == {"s1"}
    assert Gke(profile, Path("/elsewhere/other")).poll() == {}
    engine.cancel({one.jobs[1].run_id: live[one.jobs[1].run_id]})
    assert api.deleted == [going] and set(engine.poll()) == {one.jobs[0].run_id}


def test_two_launchers_at_once_make_one_of_each(api: Api) -> None:
    profile = example()
    errors: list[Exception] = []

    def launch(number: int) -> None:
        try:
            Gke(profile, FOLDER).submit(submission(profile, runs=12, id=f"s{number}"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=launch, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(api.created) == sorted(f"run-{job.run_id}" for job in submission(profile, 12).jobs)


def test_an_ended_jobset_makes_room_and_one_of_another_folder_does_not(api: Api) -> None:
    profile = example()
    first = submission(profile, runs=2)
    Gke(profile, FOLDER).submit(first)
    failed, live = (f"run-{job.run_id}" for job in first.jobs)
    ended(api, failed, "Failed")
    running(api, live)
    Gke(profile, FOLDER).submit(submission(profile, runs=2, id="s2"))
    assert api.deleted == [failed] and api.created == [failed, live, failed]
    other = Path("/home/me/runs/other")
    with pytest.raises(UserError, match=r"is trained in /mnt/runs/sweep now"):
        Gke(profile, other).submit(submission(profile, runs=3, folder=other, id="s3"))
    # What it had made by then it has taken back.
    assert sorted(api.jobsets) == sorted([failed, live])


def test_runs_that_share_a_host_are_cancelled_together(api: Api) -> None:
    profile = example("gke")
    engine = Gke(profile, FOLDER)
    engine.submit(submission(profile, runs=3))
    live = engine.poll()
    assert len(live) == 3 and len({one.handle for one in live.values()}) == 1
    some = dict(list(live.items())[:1])
    with pytest.raises(UserError, match="shares the host"):
        engine.cancel(some)
    engine.cancel(live)
    assert engine.poll() == {}


def test_the_log_is_of_the_first_host(api: Api) -> None:
    profile = example()
    engine, one = Gke(profile, FOLDER), submission(profile)
    engine.submit(one)
    name = f"run-{one.jobs[0].run_id}"
    for index in range(2):
        labels = {"jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/job-index": "0"}
        labels["batch.kubernetes.io/job-completion-index"] = str(index)
        metadata = {"name": f"pod-{index}", "namespace": "default", "labels": labels}
        spec = {"containers": [{"name": "jax-tpu", "image": "any"}]}
        api.pods[f"pod-{index}"] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        api.logs[f"pod-{index}"] = f"one\ntwo of {index}\nthree\n"
    assert engine.log(one.jobs[0].run_id, 2) == "two of 0\nthree\n"
    assert engine.log("0" * 12, 2) == ""


def test_errors_of_kubectl_are_one_sentence(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = example()
    with pytest.raises(UserError, match="knows no such context"):
        Gke(replace(profile, context="nowhere"), FOLDER).check()
    for status, said in ((401, "no valid credential"), (403, "is not allowed")):
        api.refuses = status
        with pytest.raises(UserError, match=said):
            Gke(profile, FOLDER).check()
    config = json.loads((tmp_path / "kubeconfig").read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"  # nobody listens
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot reach the cluster"):
        Gke(profile, FOLDER).check()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="kubectl is not on PATH"):
        Gke(profile, FOLDER).check()
