"""Shards of members: whatever lives ask for them, and in whatever order, no two have one in common under a session."""

from hypothesis import given
from hypothesis import strategies as st

from centipede.cluster.grants import SPARE, Grants, lives, slot
from centipede.protocol.table import Run

OF = 4
asks = st.lists(
    st.tuples(st.sampled_from((b"first session", b"another")), st.integers(1, OF), st.binary(min_size=1, max_size=1)),
    max_size=300,
)


def shards(run: Run) -> set[int]:
    return set(range(run.first, run.first + run.size))


@given(maker=st.integers(1, OF), k=st.integers(0, 4), most_lives=st.sampled_from((None, lives(OF) // 2, 3)), asks=asks)
def test_no_two_lives_have_a_shard_in_common(
    maker: int, k: int, most_lives: int | None, asks: list[tuple[bytes, int, bytes]]
) -> None:
    grants = Grants(OF, most_lives)
    own = slot(maker, OF, 0, k)
    assert own is not None
    had: dict[tuple[bytes, int, bytes], Run | None] = {}
    for base, member, life in asks:
        if member != maker:
            run = grants.run(base, member, life, k)
            assert had.setdefault((base, member, life), run) == run, "the same whenever asked"
    for session in {base for base, _, _ in had}:
        runs = [own, *(run for (base, _, _), run in had.items() if base == session and run is not None)]
        taken = [shard for run in runs for shard in shards(run)]
        assert len(taken) == len(set(taken))
        assert not set(taken) & set(SPARE), "those are for moving sessions by hand"
