import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.worker.sampling.slot_rows import SlotRows


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=80))
def test_a_slot_keeps_its_row_until_it_lets_go_and_no_two_share_one(actions):
    rows, held = SlotRows(16), {}
    for takes, slot in actions:
        if takes:
            assert rows.take(slot) == held.setdefault(slot, rows.take(slot))
        else:
            rows.release(slot)
            held.pop(slot, None)
        rows.check()
    slots = np.arange(16)
    assert rows.rows(slots).tolist() == [held.get(slot, 0) for slot in range(16)]
