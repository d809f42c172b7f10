import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.bus.memory import subject_matches
from services.common.subjects import Subjects, token


@given(st.text(min_size=1, max_size=100))
def test_any_name_becomes_one_plain_token(name):
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", token(name))


def test_plain_names_stay_readable_and_others_stay_apart():
    assert token("worker-1_a") == "worker-1_a"
    assert len({token("a.b"), token("a b"), token("a*b"), token("h-a"), token("x" * 65)}) == 5


@pytest.mark.parametrize("model", ["m", "org/model v1.0", "*", ">"])
def test_what_routers_listen_to_holds_every_model(model):
    subjects = Subjects("ns")
    assert subject_matches(subjects.submit_any(), subjects.submit(model))
    assert not subject_matches(subjects.submit_any(), Subjects("other").submit(model))


def test_wildcards_hold_every_instance():
    subjects = Subjects()
    assert subject_matches(subjects.heartbeats(), subjects.heartbeat("worker", "w.1"))
    assert subject_matches(subjects.heartbeats("worker"), subjects.heartbeat("worker", "w"))
    assert not subject_matches(subjects.heartbeats("router"), subjects.heartbeat("worker", "w"))
    assert subject_matches(subjects.kv_events(), subjects.kv_events("w 1"))
