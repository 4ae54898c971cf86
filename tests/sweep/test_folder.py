"""A folder of the journal that a command trains into, and its orders."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.core.errors import RecordError, StudyConflict
from sweeper.study.control import PAUSE, WANTED, WORKERS, Orders
from sweeper.sweep.folder import ORDERS, give, held, is_held, orders


def test_a_folder_is_held_by_one_command_at_a_time(tmp_path: Path):
    assert not is_held(tmp_path, "mine")
    with held(tmp_path / "mine"):
        assert is_held(tmp_path, "mine")
        with pytest.raises(StudyConflict, match="another process is writing to"), held(tmp_path / "mine"):
            pass
    assert not is_held(tmp_path, "mine")


def test_orders_add_up_and_the_next_command_forgets_them(tmp_path: Path):
    with held(tmp_path / "mine"):
        give(tmp_path, "mine", WANTED, PAUSE)
        give(tmp_path, "mine", WORKERS, 3)
        assert orders(tmp_path / "mine") == Orders(PAUSE, 3)
    with held(tmp_path / "mine"):
        assert orders(tmp_path / "mine") == Orders()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"wanted": 3, "wanted_workers": "x"}', '{"wanted_workers": -1}'])
def test_orders_that_make_no_sense_are_none(tmp_path: Path, content: str):
    (tmp_path / ORDERS).write_text(content)
    assert orders(tmp_path) == Orders()


def test_no_order_is_written_through_a_link(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "mine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError):
        give(tmp_path / "journal", "mine", WANTED, PAUSE)
    assert not list((tmp_path / "elsewhere").iterdir())
