"""The network of a finished run: kept before its record, read by whoever needs it, never trained twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asg import AsgError, records
from asg import run as module
from asg.config import RunConfig, make_config
from asg.data import load_domains
from asg.metrics import forward_all
from asg.run import network_path, run, trained
from asg.trainers import classification, segmentation
from asg_book.profiles import PROFILES


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


ADAPT = {"rounds": 1, "length": 0.2, "rate": 1.0, "portion": 0.5}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that have been trained so far, rounds of self-training aside."""
    seen = []
    for trainer in (classification, segmentation):
        train = trainer.train
        monkeypatch.setattr(trainer, "train", lambda c, *a, train=train: seen.append(c) or train(c, *a))
    return seen


@pytest.mark.parametrize("data", [{"guidance": 0.1}, {"data": "toy-scenes", "batch": 4}], ids=["images", "scenes"])
def test_the_network_that_a_run_has_trained_is_not_trained_again(workplace, trainings, data):
    config = toy(**data)
    record = run(config)
    network = trained(config)
    assert trainings == [config]
    if "data" not in data:  # it is the network that the record speaks of
        photos, cpu = load_domains(config).target, torch.device("cpu")
        plain, mirrored = (forward_all(network, photos, 64, cpu, mirror=m)[0].sigmoid() for m in (False, True))
        assert (plain + mirrored).argmax(1).tolist() == record["final"]["predicted"]
    bytes_of = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    assert bytes_of <= network_path(config).stat().st_size < 1.1 * bytes_of + 20_000  # the disk use that is documented


def test_a_network_that_is_asked_for_first_brings_the_record(workplace, trainings):
    config = toy()
    trained(config)
    assert run(config) == records.find(config) is not None
    assert trainings == [config]


def test_a_lost_network_is_trained_again_and_its_record_stays(workplace, trainings):
    config = toy()
    record = run(config)
    before = load_file(network_path(config))
    network_path(config).unlink()
    again = trained(config).state_dict()
    assert all(torch.equal(again[name], value) for name, value in before.items())
    assert run(config) == record and len(trainings) == 2


def test_self_training_starts_from_the_network_of_its_first_training(workplace, trainings):
    """And an adapted run keeps the adapted network."""
    start, config = toy(steps=40, warmup=4), toy(steps=40, warmup=4, adapt=ADAPT)
    run(start)
    record = run(config)
    assert trainings == [start]
    assert record["evaluations"][0]["accuracy"] == run(start)["final"]["accuracy"]
    ours, theirs = (trained(c).task_head[2].weight for c in (config, start))
    assert not torch.equal(ours, theirs) and trainings == [start]


def test_a_repetition_keeps_no_network(workplace):
    run(toy(), fresh=True)
    assert not list(workplace.runs.rglob("*.safetensors"))


def test_the_record_is_the_last_thing_that_is_written(workplace, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    config = toy()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(records, "append", stop)
        run(config)
    assert network_path(config).exists() and records.find(config) is None
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        network_path(config).unlink()
        patch.setattr(module, "write_network", stop)
        run(config)
    assert records.find(config) is None
    assert run(config)["final"]["step"] == 8


def test_a_full_disk_leaves_no_part_of_a_network(workplace, monkeypatch):
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> None:
        write(path, content[:4])
        if path.parent.name == "models":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(AsgError, match=r"The network cannot be kept in .*free some space and run the same command"):
        run(toy())
    assert not list((workplace.runs / "models").iterdir()) and records.find(toy()) is None


@pytest.mark.parametrize("damage", ["cut", "of another network", "empty"])
def test_a_damaged_network_is_named_with_its_remedy(workplace, damage: str):
    config = toy()
    run(config)
    path = network_path(config)
    sound = path.read_bytes()
    if damage == "of another network":
        save_file({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(sound[: len(sound) // 2] if damage == "cut" else b"")
    with pytest.raises(AsgError, match=rf"{path} is damaged \(.*\): remove it, and its run is trained again"):
        trained(config)
    path.unlink()
    trained(config)
    assert path.read_bytes() == sound
