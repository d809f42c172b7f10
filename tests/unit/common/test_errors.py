from services.common.errors import QueueFull, ShoalError, _tree, from_code, openai_body


def test_every_error_has_a_code_of_its_own_and_comes_back_from_it():
    classes = [cls for cls in _tree(ShoalError) if cls.__module__ == "services.common.errors"]
    assert len({cls.code for cls in classes}) == len(classes)
    for cls in classes:
        again = from_code(cls.code, "why", retry_after_s=2.0)
        assert (type(again), again.message, again.retry_after_s) == (cls, "why", 2.0)


def test_an_unknown_code_is_an_internal_error_that_names_it():
    error = from_code("new_code", "why")
    assert (error.status, error.message) == (500, "new_code: why")


def test_the_body_has_openais_form():
    body = openai_body(QueueFull("full", param="n"))
    assert body == {
        "error": {"message": "full", "type": "overloaded_error", "param": "n", "code": "queue_full"}
    }
