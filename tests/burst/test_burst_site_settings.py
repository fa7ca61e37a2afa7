"""From flex.toml to what the controller goes by: what is contradictory is said with its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from flux_site import CATALOG

from flux_flex.cli.burst_site import settings_of
from flux_flex.config import FlexConfig, load_config
from flux_flex.errors import BadInput


def site(path: Path, limits: str) -> FlexConfig:
    (path / "catalog.yaml").write_text(CATALOG)
    file = path / "flex.toml"
    file.write_text(
        f'[burst]\nprovider = "local"\ncatalog = "{path}/catalog.yaml"\n'
        '[[burst.slots]]\nname = "burst"\ntype = "small"\nbursts = 1\nnodes = 2\n'
        f"[burst.limits]\n{limits}\n"
    )
    file.chmod(0o600)
    return load_config(file)


def test_a_type_in_the_limits_that_nobody_has_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"limits\.types names 'smal'") as refused:
        settings_of(site(tmp_path, 'types = ["smal"]'))
    assert refused.value.where == "burst"


def test_settings_say_whether_jobs_wait_for_hosts_that_are_down(tmp_path: Path) -> None:
    found = site(tmp_path, 'types = ["small"]')
    assert settings_of(found, waits=True).waits
    assert not settings_of(found).waits
