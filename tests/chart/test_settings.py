"""The chart speaks the operator's language: every setting, under its name, with its default."""

from typing import Any

import pytest

from chart.helm import Helm, container
from chart.matrix import MATRIX
from troika_operator.settings import Settings

PREFIX = str(Settings.model_config["env_prefix"])
SET_BY_THE_INSTALLATION = {
    "trainer_image",
    "leader_namespace",
    "leader_lease",
    "pod_name",
}
"""Settings whose value no default can know."""


def environment(helm: Helm, values: dict[str, Any]) -> dict[str, str]:
    """Variables of the operator; those that only the cluster knows get a stand-in."""
    variables = container(helm.render(values=values))["env"]
    return {variable["name"]: variable.get("value", "from-the-pod") for variable in variables}


def settings(helm: Helm, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the operator makes of the environment that the chart gives it."""
    for name, value in environment(helm, values).items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_every_setting_is_given_and_no_other(helm: Helm) -> None:
    given = environment(helm, {}).keys()
    assert given == {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_charts_defaults_are_the_operators(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Settings()
    from_chart = settings(helm, {}, monkeypatch)
    excluded = SET_BY_THE_INSTALLATION
    assert from_chart.model_dump(exclude=excluded) == own.model_dump(exclude=excluded)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_the_operator_understands_what_it_is_told(
    helm: Helm, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = settings(helm, values, monkeypatch)
    assert told.watch_namespaces == tuple(values.get("watchNamespaces", ()))
    assert told.leader_election is (values.get("replicas", 1) > 1)


def test_numbers_arrive_as_they_were_written(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    # Helm reads numbers as floats, which like to become 1e+07 on the way.
    numbers = {"writeBurst": 25000000, "pollInterval": 0.25, "statusInterval": 0}
    values = {"settings": numbers, "trainer": {"runAsUser": 1000620000}}
    told = settings(helm, values, monkeypatch)
    assert (told.write_burst, told.poll_interval, told.status_interval) == (25000000, 0.25, 0)
    assert told.run_as_user == 1000620000


def test_a_platform_may_choose_the_users_of_trainers(
    helm: Helm, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = settings(helm, MATRIX["a platform that chooses users"], monkeypatch)
    assert told.run_as_user is None
    assert told.fs_group is None
