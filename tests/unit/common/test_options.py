import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.options import Option, OptionError, environment, help_text, parse
from services.common.options.parse import options_of
from services.common.options.tables import ALL_OPTIONS, NOT_YET

SERVICES = ["gateway", "router", "worker", "detokenizer", "kvstore", "up"]
EXAMPLE = [
    Option("config", str, "", "A file.", ("x",)),
    Option("size", int, 4, "A size.", ("x",), ("length-max",), minimum=1, maximum=9),
    Option("share", float, 0.5, "A share.", ("x",), minimum=0),
    Option("fast", bool, False, "A flag.", ("x",)),
    Option("keys", list, [], "Several.", ("x",), secret=True),
    Option("how", str, "a", "A choice.", ("x",), choices=("a", "b")),
]


def read(*words, env=None):
    return parse("x", words, env or {}, options=EXAMPLE)


def test_defaults_hold_where_nothing_is_said():
    settings = read()
    assert (settings.size, settings.share, settings.fast, settings.keys, settings.how) == (
        4,
        0.5,
        False,
        [],
        "a",
    )
    assert not settings.is_set("size")


@pytest.mark.parametrize(
    "words", [["--size", "7"], ["--size=7"], ["--SIZE", "7"], ["--length-max", "7"], ["--length_max=7"]]
)
def test_dashes_underscores_and_aliases_are_the_same(words):
    assert read(*words).size == 7


@pytest.mark.parametrize(
    ("words", "fast"),
    [
        (["--fast"], True),
        (["--fast", "false"], False),
        (["--fast=off"], False),
        (["--fast", "--size=2"], True),
    ],
)
def test_flags_need_no_value_and_take_one(words, fast):
    assert read(*words).fast is fast


def test_lists_take_words_commas_and_repetition():
    assert read("--keys", "a", "b,c", "--size", "2", "--keys=d").keys == ["a", "b", "c", "d"]


def test_flags_win_over_environment_and_environment_over_the_file(tmp_path):
    path = tmp_path / "shoal.toml"
    path.write_text('size = 2\nshare = 0.25\nhow = "b"\nport = 1\n')  # port: another service's
    env = {"SHOAL_SIZE": "3", "SHOAL_SHARE": "0.75", "SHOAL_CONFIG": str(path)}
    settings = read("--size", "5", env=env)
    assert (settings.size, settings.share, settings.how) == (5, 0.75, "b")
    shown = settings.describe()
    assert shown["size"] == "5  (flag)"
    assert shown["share"] == "0.75  (environment SHOAL_SHARE)"
    assert shown["how"] == f"b  (file {path})"
    assert shown["fast"] == "0  (default)"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--sise", "3"], "unknown option --sise; the closest is --size"),
        (["--zzzzzz"], "see --help"),
        (["--quantization", "fp8"], "not there yet"),
        (["size"], "options start with --"),
        (["--size"], "needs a value"),
        (["--size", "--fast"], "needs a value"),
        (["--size", "ten"], "--size: expected int, found 'ten'"),
        (["--size", "0"], "under the minimum of 1"),
        (["--size", "10"], "over the maximum of 9"),
        (["--share", "nan"], "under the minimum"),
        (["--how", "c"], "'c' is not one of a, b"),
        (["--fast=maybe"], "--fast: expected bool"),
        (["--config", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, complaint):
    with pytest.raises(OptionError) as caught:
        read(*words)
    assert complaint in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("size = [", "--config"),
        ("sise = 3", "unknown option sise"),
        ("size = 2.5", "expected int"),
        ("size = inf", "expected int"),
        ("size = true", "expected int"),
        ("size = {a = 1}", "expected int"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, complaint):
    path = tmp_path / "shoal.toml"
    path.write_text(content)
    with pytest.raises(OptionError, match=re.escape("shoal.toml")) as caught:
        read("--config", str(path))
    assert complaint in caught.value.message


def test_secrets_are_not_shown():
    assert "hunter2" not in str(read("--keys", "hunter2").describe())


def test_the_environment_hands_chosen_settings_on():
    settings = read("--keys", "a", "b", "--fast", "--share", "0.1")
    again = parse("x", [], environment(settings), options=EXAMPLE)
    assert (again.keys, again.fast, again.share) == (["a", "b"], True, 0.1)
    assert "SHOAL_SIZE" not in environment(settings)


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_words_are_settings_or_an_option_error(words):
    try:
        settings = read(*words)
    except OptionError:
        return
    assert 1 <= settings.size <= 9
    assert not math.isnan(settings.share)


@given(st.sampled_from(EXAMPLE), st.text(max_size=8) | st.floats() | st.booleans() | st.lists(st.integers()))
def test_any_value_is_converted_or_an_option_error(option, raw):
    try:
        value = option.convert(raw, "here")
    except OptionError:
        return
    assert isinstance(value, option.kind)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_reads_its_defaults_and_explains_itself(service):
    settings = parse(service, [], {})
    for option in options_of(service):
        assert option.convert(getattr(settings, option.name), option.name) == option.default
        assert f"--{option.name}" in help_text(service)


def test_no_two_options_share_a_name_or_alias():
    spellings = [n.replace("-", "_") for option in ALL_OPTIONS for n in (option.name, *option.aliases)]
    assert len(spellings) == len(set(spellings))
    assert not set(spellings) & set(NOT_YET)
