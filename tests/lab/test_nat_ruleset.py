"""The NAT's rules as text: reviewed once, frozen in golden/. tests/lab/test_nat.py shows what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab.nat import NatKind, NatPlan, ruleset

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("kind", NatKind)
def test_the_rules_are_those_that_were_reviewed(kind: NatKind) -> None:
    text = ruleset(NatPlan(kind=kind, outside="wan", mapping_timeout_s=60), generation=1)
    assert text == (GOLDEN / f"nat-{kind}.nft").read_text()


def test_only_the_generation_tells_one_load_from_the_next() -> None:
    plan = NatPlan(kind=NatKind.FULL_CONE, outside="wan")
    first, second = (ruleset(plan, generation).splitlines() for generation in (1, 2))
    changed = [line.strip() for line, other in zip(second, first, strict=True) if line != other]
    assert changed == ["ct mark 0 ct mark set 2", "ct mark != 2 return"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "conical", "outside": "wan"}, "conical"),
        ({"kind": "symmetric"}, "outside"),
        ({"kind": "symmetric", "outside": 'wan" accept'}, "is not the name of an interface"),
        ({"kind": "symmetric", "outside": "a-name-that-is-too-long"}, "is not the name of an interface"),
        ({"kind": "symmetric", "outside": ""}, "is not the name of an interface"),
        ({"kind": "symmetric", "outside": "wan", "mapping_timeout_s": 0}, "must be at least 1, not 0"),
        ({"kind": "symmetric", "outside": "wan", "timeout": 3}, "timeout"),
    ],
)
def test_a_plan_that_means_nothing_is_refused_in_words(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(fields, NatPlan)
    assert said in str(refused.value)
