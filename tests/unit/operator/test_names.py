"""Names are bounded, and no two jobs share one."""

import re

import pytest

from troika_operator.resources import names

LABEL = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
NAMES = ["bert", "7b", "a.b", "a-b", "x" * 46, "x" * 47, "x" * 253, "1" * 63, "bert-ptj", "j-7b"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_dns_label_with_room_for_the_index(name: str) -> None:
    assert LABEL.match(names.service("ptj", name))
    assert LABEL.match(names.attempt("ptj", name, 99999))
    assert len(names.attempt("ptj", name, 99999)) + len("-4095") <= 63
    assert len(names.run_config("ptj", name, "{}")) <= 63
    assert len(names.label_value(name)) <= 63


def test_no_two_jobs_share_a_name() -> None:
    made = [names.service(short, name) for short in ("ptj", "ftj") for name in NAMES]
    made += [names.attempt(short, name, 0) for short in ("ptj", "ftj") for name in NAMES]
    assert len(set(made)) == len(made)


def test_an_ordinary_name_stays_readable() -> None:
    assert names.attempt("ptj", "bert-base", 3) == "bert-base-ptj-a3"
