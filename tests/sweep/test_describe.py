"""The commit that is recorded with a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sweeper.sweep import describe
from sweeper.sweep.describe import read_git


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of an installed package, in a repository with a commit of another file."""
    other, file = tmp_path / "theirs.py", tmp_path / ".venv" / "package" / "ours.py"
    file.parent.mkdir(parents=True)
    other.write_text("theirs\n")
    file.write_text("ours\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit(other)
    return file


def commit(file: Path) -> str:
    git = ["git", "-C", str(file.parent), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "-f", file.name], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "A commit"], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_another_projects_repository_is_not_recorded(file: Path):
    assert read_git(file) == ({}, "")


def test_the_commit_of_our_own_repository_is_recorded_with_its_changes(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    number = commit(file)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of a hook"))
    assert read_git(file) == ({"mlflow.source.git.commit": number}, "")
    file.write_text("changed\n")
    read_git.cache_clear()
    assert read_git(file) == ({"mlflow.source.git.commit": number, "sweeper.git.changed": "true"}, "")


@pytest.mark.parametrize(("reason", "says"), [("owner", "dubious ownership"), ("no git", "No such file")])
def test_a_checkout_that_git_does_not_read_is_said(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reason: str, says: str
):
    if reason == "owner":
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own, for its tests
    else:
        monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    tags, why = read_git(file)
    assert tags == {}
    assert says in why


def test_no_checkout_is_nothing_to_say(tmp_path: Path):
    assert read_git(tmp_path / "package" / "ours.py") == ({}, "")


@pytest.mark.parametrize(
    ("built_from", "tags"),
    [
        ("12ab", {"mlflow.source.git.commit": "12ab"}),
        ("12ab-dirty", {"mlflow.source.git.commit": "12ab", "sweeper.git.changed": "true"}),
        ("", {}),
    ],
)
def test_the_commit_of_an_image_is_recorded(
    file: Path, monkeypatch: pytest.MonkeyPatch, built_from: str, tags: dict[str, str]
):
    monkeypatch.setattr(describe, "__file__", str(file))
    monkeypatch.setenv("SWEEPER_COMMIT", built_from)
    assert describe.git_tags() == tags
