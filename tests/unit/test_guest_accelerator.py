"""The choice of an accelerator, without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.accelerator import Accelerator, choose
from lab.errors import LabError


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    return path


class Trial:
    """Counts how often it was tried."""

    def __init__(self, failure: str = "") -> None:
        self.failure = failure
        self.number = 0

    def __call__(self) -> None:
        self.number += 1
        if self.failure:
            raise LabError(self.failure)


def test_what_works_is_tried_once_for_each_kernel(tmp_path: Path, device: Path) -> None:
    trial = Trial()
    choices = [choose("one", tmp_path, trial, device=device) for _ in range(2)]
    assert [choice.accelerator for choice in choices] == [Accelerator.KVM, Accelerator.KVM]
    assert trial.number == 1
    choose("another", tmp_path, trial, device=device)
    assert trial.number == 2


def test_what_does_not_work_is_remembered_with_its_reason(tmp_path: Path, device: Path) -> None:
    trial = Trial("it did not come to its end\nand more")
    for _ in range(2):
        choice = choose("one", tmp_path, trial, device=device)
        assert (choice.accelerator, choice.refusal) == (Accelerator.TCG, "it did not come to its end")
    assert trial.number == 1


def test_without_the_device_nothing_is_tried(tmp_path: Path) -> None:
    trial = Trial()
    choice = choose("one", tmp_path, trial, device=tmp_path / "none")
    assert choice.accelerator is Accelerator.TCG
    assert "is not there" in choice.refusal
    assert trial.number == 0


def test_a_broken_record_is_made_anew(tmp_path: Path, device: Path) -> None:
    choose("one", tmp_path, Trial("no"), device=device)
    for file in tmp_path.glob("*.json"):
        file.write_text("{")
    assert choose("one", tmp_path, Trial(), device=device).accelerator is Accelerator.KVM
