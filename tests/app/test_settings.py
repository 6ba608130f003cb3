"""Settings: one field is everything, and a wrong value is named."""

from __future__ import annotations

import dataclasses

import pytest

from app.settings import (
    BadSetting,
    Settings,
    default_data,
    flag_name,
    rows,
    setting_fields,
    settings_from,
    unknown_variables,
    variable_name,
)


def test_flags_win_over_the_environment_and_both_over_defaults() -> None:
    settings = settings_from(
        {"HOME": "/home/someone", "SPANWISE_HTTP_PORT": "1111", "SPANWISE_GRPC_PORT": "2222"}, {"http_port": "3333"}
    )
    assert (settings.http_port, settings.grpc_port, settings.host) == (3333, 2222, "127.0.0.1")
    origins = {row.name: row.origin for row in rows(settings)}
    assert (origins["http_port"], origins["grpc_port"], origins["host"]) == ("flag", "environment", "default")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_body_bytes", "64MiB", 64 * 2**20),
        ("max_body_bytes", "2 mb", 2 * 2**20),
        ("max_body_bytes", "67108864", 2**26),
        ("memory_limit_bytes", "auto", 0),
        ("memory_limit_bytes", "1GiB", 2**30),
        ("query_timeout_s", "2.5", 2.5),
        ("http_port", "0", 0),
        ("allowed_hosts", "Spanwise.internal, 10.0.0.5,[fe80::1]", ("spanwise.internal", "10.0.0.5", "[fe80::1]")),
        ("data", ":memory:", ":memory:"),
    ],
)
def test_values_are_read(name: str, text: str, value: object) -> None:
    assert getattr(settings_from({"HOME": "/h", variable_name(name): text}), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("http_port", "65536"),
        ("http_port", "-1"),
        ("http_port", "٣"),
        ("http_port", ""),
        ("grpc_port", "http"),
        ("max_body_bytes", "0"),
        ("max_body_bytes", "12 parsecs"),
        ("query_timeout_s", "0"),
        ("query_timeout_s", "nan"),
        ("query_timeout_s", "1e9"),
        ("query_threads", "0"),
        ("host", " "),
        ("data", ""),
        ("allowed_hosts", "evil.com/path"),
        ("allowed_hosts", "host:4318"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_source(name: str, text: str) -> None:
    with pytest.raises(BadSetting) as by_variable:
        settings_from({"HOME": "/h", variable_name(name): text})
    assert f"{variable_name(name)}={text!r}" in str(by_variable.value)
    with pytest.raises(BadSetting) as by_flag:
        settings_from({"HOME": "/h"}, {name: text})
    assert f"{flag_name(name)}={text!r}" in str(by_flag.value)


def test_the_default_file_lies_in_the_users_data_folder() -> None:
    assert default_data({"HOME": "/home/a"}) == "/home/a/.local/share/spanwise/spanwise.duckdb"
    assert default_data({"HOME": "/home/a", "XDG_DATA_HOME": "/d"}) == "/d/spanwise/spanwise.duckdb"
    # The specification: a relative path there is to be ignored.
    assert default_data({"HOME": "/home/a", "XDG_DATA_HOME": "d"}).startswith("/home/a/")


def test_every_setting_has_flag_variable_and_a_sentence_of_help() -> None:
    settings = settings_from({"HOME": "/h"})
    named = {row.name: row for row in rows(settings)}
    fields = {each.name for each in dataclasses.fields(Settings)} - {"origins"}
    assert set(named) == fields == {each.name for each in setting_fields()}
    for row in named.values():
        assert row.help.endswith(".")
        assert row.help[0].isupper()
        assert row.value
        assert row.variable == "SPANWISE_" + row.flag[2:].replace("-", "_").upper()


def test_a_misspelt_variable_is_found() -> None:
    assert unknown_variables({"SPANWISE_HTTP_PRT": "1", "SPANWISE_DATA": "x", "OTHER": "y"}) == ["SPANWISE_HTTP_PRT"]
