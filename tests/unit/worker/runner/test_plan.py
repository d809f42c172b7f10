import numpy as np

from services.worker.runner.plan import (
    PrefillChunk,
    SlotSampling,
    SlotStart,
    StepPlan,
    decode_plan,
    encode_plan,
)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_a_plan_comes_back_from_its_bytes_unchanged():
    sampling = SlotSampling(temperature=0.5, seed=2**63 + 5, logit_bias={7: -1.5}, bad_words=[[1, 2], [3]])
    plan = StepPlan(
        step=9,
        starts=[SlotStart(3, sampling, ids(1, 2), ids(4), 77), SlotStart(4, SlotSampling())],
        decode_slots=[0, 2],
        prefills=[PrefillChunk(3, 16, ids(5, 6, 7), True), PrefillChunk(4, 0, ids(8), False)],
    )
    plan.set_blocks(3, 1, [11, 12])
    plan.set_blocks(4, 0, [13])

    copy = decode_plan(encode_plan(plan))

    np.testing.assert_equal(
        [(s.slot, s.sampling, s.prompt_ids, s.output_ids, s.prompt_length) for s in copy.starts],
        [(s.slot, s.sampling, s.prompt_ids, s.output_ids, s.prompt_length) for s in plan.starts],
    )
    np.testing.assert_equal(
        [(c.slot, c.start, c.token_ids, c.samples) for c in copy.prefills],
        [(c.slot, c.start, c.token_ids, c.samples) for c in plan.prefills],
    )
    assert (copy.step, copy.decode_slots) == (9, [0, 2])
    assert (copy.table_slots, copy.table_columns, copy.table_blocks) == ([3, 3, 4], [1, 2, 0], [11, 12, 13])


def test_results_are_ordered_decodes_first_then_the_chunks_that_sample():
    plan = StepPlan(
        0, decode_slots=[5, 1], prefills=[PrefillChunk(2, 0, ids(1), False), PrefillChunk(3, 0, ids(1), True)]
    )
    assert plan.sampled_slots == [5, 1, 3]
    assert plan.num_tokens == 4
