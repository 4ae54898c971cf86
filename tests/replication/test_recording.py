"""The recorded runs of a protocol in one file: written, read, refused, and taken up elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.archive import MANIFEST, add_bytes
from sweeper.core.errors import StudyConflict, SweeperError
from sweeper.engine import choice as engine_choice
from sweeper.replication import recording
from sweeper.replication.claims.ledger import Ledger
from sweeper.replication.recording import export_runs, import_runs
from sweeper.replication.verify import verify
from tests.replication.conftest import Command
from tests.replication.drawn import NAMES, QUICK, environment, written
from tests.replication.place import Place

ARMS = ["exp1", "exp2"]
RUN = "reproduce-quick-30/exp1/seed-0/events.jsonl"


@pytest.fixture
def home(tmp_path: Path, ledger: Ledger) -> Path:
    """A home with five seeds of two arms."""
    written(tmp_path / "home", ledger.runs, ARMS)
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path: Path, home: Path) -> Path:
    """The recording of `home`."""
    export_runs(environment(home, []), QUICK, tmp_path / "quick.tar.gz")
    return tmp_path / "quick.tar.gz"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A home in which nothing is recorded."""
    (tmp_path / "new").mkdir()
    return tmp_path / "new"


def events(home: Path) -> dict[str, bytes]:
    """The journals of a home, by their paths."""
    root = home / "journal"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("events.jsonl")}


def everything(home: Path) -> set[str]:
    """The files of a home, but for the lock that a refused command may leave."""
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and path.name != ".lock"}


# --- there and back ----------------------------------------------------------------------------------------


def test_runs_arrive_byte_for_byte_and_are_judged_alike(tmp_path: Path, ledger: Ledger, new: Path) -> None:
    written(tmp_path, ledger.runs, NAMES)
    said: list[str] = []
    before, after = environment(tmp_path, said), environment(new, said)
    result = export_runs(before, QUICK, tmp_path / "all.tar.gz")
    assert result["runs"] == 5 * len(NAMES)
    assert result["bytes"] == (tmp_path / "all.tar.gz").stat().st_size < 2_000 * result["runs"]
    assert import_runs(after, QUICK.article, tmp_path / "all.tar.gz")["added"] == result["runs"]
    assert events(new) == events(tmp_path)
    assert said[-2:] == [
        f"imported {result['runs']} runs of protocol quick",
        "to judge the claims: sweeper verify --protocol quick",
    ]
    verdicts = [[(e.verdict, e.p, e.p_holm) for e in verify(env.journal, QUICK).judged] for env in (before, after)]
    assert verdicts[0] == verdicts[1]
    assert {verdict for verdict, *_ in verdicts[0]} == {"supported", "contradicted", "inconclusive", "untestable"}
    export_runs(after, QUICK, new / "again.tar.gz")
    assert (new / "again.tar.gz").read_bytes() == (tmp_path / "all.tar.gz").read_bytes()


def test_weights_pictures_and_unfinished_runs_are_left_out(home: Path, file: Path, tmp_path: Path) -> None:
    folder = home / "journal/reproduce-quick-30/exp1"
    (folder / "seed-0/artifacts/model").mkdir(parents=True)
    (folder / "seed-0/artifacts/model/state.safetensors").write_bytes(b"weights")
    (folder / "seed-0/upload.json").write_text("{}")
    (folder / "seed-7").mkdir()
    lines = (folder / "seed-0/events.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "seed-7/events.jsonl").write_bytes(b"".join(lines[:-1]))
    with (folder / "seed-0/events.jsonl").open("ab") as stream:
        stream.write(b'{"event": "sta')  # as a crash leaves it
    export_runs(environment(home, []), QUICK, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == file.read_bytes()


def test_a_recorded_run_is_never_trained_again(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.reproduce(1, seeds=2)
    export_runs(place.environment, QUICK, tmp_path / "quick.tar.gz")
    other = Place(tmp_path)
    assert import_runs(other.environment, QUICK.article, tmp_path / "quick.tar.gz")["added"] == 2
    with monkeypatch.context() as patch:
        patch.setattr(engine_choice, "build", lambda *_, **__: pytest.fail("there is nothing to train"))
        assert other.reproduce(1, seeds=2)["added"] == 0
    assert other.said[-1] == "2 of 2 runs are recorded already"
    result = other.reproduce(1, seeds=3)
    assert (result["recorded"], result["added"]) == (3, 1)
    assert import_runs(other.environment, QUICK.article, tmp_path / "quick.tar.gz") | {"journal": ""} == {
        "article": "learnopencv", "protocol": "quick", "runs": 2, "added": 0, "journal": "",
    }  # fmt: skip


def test_what_is_there_already_is_no_conflict_and_what_lacks_is_added(home: Path, file: Path) -> None:
    before = events(home)
    shutil.rmtree(home / "journal/reproduce-quick-30/exp2/seed-3")
    said: list[str] = []
    assert import_runs(environment(home, said), QUICK.article, file)["added"] == 1
    assert events(home) == before
    assert said[0] == "imported 1 run of protocol quick; 9 were there"


def test_an_unfinished_run_in_the_place_of_another_is_set_aside(home: Path, file: Path) -> None:
    before = events(home)
    path = home / "journal" / RUN
    path.write_bytes(b"".join(before[RUN].splitlines(keepends=True)[:3]))
    unfinished = path.read_bytes()
    assert import_runs(environment(home, []), QUICK.article, file)["added"] == 1
    after = events(home)
    (aside,) = after.keys() - before.keys()
    assert re.fullmatch(r"reproduce-quick-30/exp1/seed-0\.\d+/events\.jsonl", aside)
    assert after.pop(aside) == unfinished
    assert after == before


# --- refused -----------------------------------------------------------------------------------------------


def test_another_run_of_the_same_arm_and_seed_is_refused(home: Path, file: Path) -> None:
    for seed in (0, 4):
        path = home / f"journal/reproduce-quick-30/exp2/seed-{seed}/events.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"time": 9000', b'"time": 9001'))
    shutil.rmtree(home / "journal/reproduce-quick-30/exp1")
    before = events(home)
    with pytest.raises(StudyConflict, match=r"exp2/seed-0/events\.jsonl is another run than .*, and so for 1 more\. "):
        import_runs(environment(home, []), QUICK.article, file)
    assert events(home) == before  # nor was exp1 taken up


def test_runs_of_another_kind_are_refused(home: Path, file: Path) -> None:
    shutil.rmtree(home / "journal/reproduce-quick-30/exp1")
    for path in (home / "journal").rglob("events.jsonl"):
        path.write_bytes(path.read_bytes().replace(b'"precision": "fp32"', b'"precision": "bf16"'))
    with pytest.raises(StudyConflict, match=r"of another kind \(precision was 'bf16', is 'fp32'\)"):
        import_runs(environment(home, []), QUICK.article, file)


def test_runs_of_another_configuration_are_refused(home: Path, tmp_path: Path, new: Path) -> None:
    file = tmp_path / "former.tar.gz"
    content = {RUN: events(home)[RUN].replace(b'"lr": "0.001"', b'"lr": "0.002"')}
    file.write_bytes(tarred(content))
    with pytest.raises(StudyConflict, match=r"exp1/seed-0 is no finished run of an arm .* \(1 of 1 runs\)\. Use the"):
        import_runs(environment(new, []), QUICK.article, file)
    assert everything(new) == set()


def tarred(
    files: dict[str, bytes], change: Callable[[dict[str, Any]], Any] = lambda _: None,
    add: Callable[[tarfile.TarFile], Any] = lambda _: None,
) -> bytes:  # fmt: skip
    """A recording as another program may make it: `change` edits the manifest, `add` adds members."""
    manifest: dict[str, Any] = {
        "format": 1, "article": "learnopencv", "protocol": "quick",
        "sha256": {name: recording.hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "bytes": {name: len(content) for name, content in files.items()},
    }  # fmt: skip
    change(manifest)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            add_bytes(tar, name, content)
        add(tar)
        add_bytes(tar, MANIFEST, json.dumps(manifest).encode())
    return gzip.compress(stream.getvalue())


def link(tar: tarfile.TarFile) -> None:
    info = tarfile.TarInfo("reproduce-quick-30/exp1/seed-1/events.jsonl")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar.addfile(info)


BAD: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "no gzip": (lambda _: b"no gzip at all", "Not a gzipped file"),
    "cut off": (lambda files: tarred(files)[:-40], "ended before the end-of-stream"),
    "no tar": (lambda _: gzip.compress(b"x" * 2_000), "not a whole recording"),
    "empty": (lambda _: b"", "not a whole recording"),
    "a link": (lambda files: tarred(files, add=link), "is not a regular file"),
    "a way out": (lambda files: tarred({"reproduce-quick-30/../../x/events.jsonl": b""}), "belong to a recording"),
    "an absolute path": (lambda files: tarred({"/etc/events.jsonl": b""}), "belong to a recording"),
    "weights": (lambda files: tarred({"reproduce-quick-30/exp1/seed-0/artifacts/w": b""}), "belong to a recording"),
    "another protocol": (
        lambda files: tarred({name.replace("quick", "full"): content for name, content in files.items()}),
        "is not of reproduce-quick-30/",
    ),
    "a member more": (
        lambda files: tarred(files, add=lambda tar: add_bytes(tar, RUN.replace("seed-0", "seed-9"), b"x")),
        "is not in its manifest",
    ),
    "a member less": (lambda files: tarred(files, lambda m: m["sha256"].update({f"{RUN}x": "0" * 64})), "is missing"),
    "another size": (lambda files: tarred(files, lambda m: m["bytes"].update({RUN: 1})), "its sizes differ from"),
    "another hash": (lambda files: tarred(files, lambda m: m["sha256"].update({RUN: "0" * 64})), "is damaged"),
    "no hash": (lambda files: tarred(files, lambda m: m["sha256"].update({RUN: "x"})), "manifest.json"),
    "another format": (lambda files: tarred(files, lambda m: m.update(format=2)), "this release reads format 1"),
    "no protocol": (lambda files: tarred(files, lambda m: m.pop("protocol")), "manifest.json: Field required"),
    "no such protocol": (lambda files: tarred(files, lambda m: m.update(protocol="slow")), "'full', 'quick' or"),
    "twice": (lambda files: tarred(files, add=lambda tar: add_bytes(tar, RUN, files[RUN])), "appears twice"),
}  # fmt: skip


@pytest.mark.parametrize("damage", BAD)
def test_what_is_no_recording_is_refused_in_one_line_and_nothing_is_written(
    damage: str, home: Path, tmp_path: Path, new: Path
) -> None:
    make, says = BAD[damage]
    file = tmp_path / "bad.tar.gz"
    file.write_bytes(make({RUN: events(home)[RUN]}))
    with pytest.raises(SweeperError) as caught:
        import_runs(environment(new, []), QUICK.article, file)
    message = str(caught.value)
    assert says in message
    assert message.startswith(str(file))
    assert len(message.splitlines()) == 1
    assert list(new.iterdir()) == []


def test_a_file_that_unpacks_to_more_than_is_allowed_is_not_unpacked(
    file: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MOST_CONTENT", 1_000)
    with pytest.raises(SweeperError, match="it has more than 1,000 bytes"):
        import_runs(environment(new, []), QUICK.article, file)


def test_a_link_in_the_journal_is_not_followed(file: Path, new: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (new / "journal/reproduce-quick-30").mkdir(parents=True)
    (new / "journal/reproduce-quick-30/exp1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SweeperError, match="is a link"):
        import_runs(environment(new, []), QUICK.article, file)
    assert list((tmp_path / "elsewhere").iterdir()) == []


# --- the commands ------------------------------------------------------------------------------------------


def test_the_commands_move_runs_and_judge_them_in_the_file(home: Path, sweeper: Command, monkeypatch: Any) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(home))
    code, out, err = sweeper("reproduce", "--protocol", "quick", "--export", "a.tar.gz")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"exported 10 runs of protocol quick to a\.tar\.gz \(0\.0 MB\)\n", out)
    code, _, err = sweeper("reproduce", "--protocol", "quick", "--export", "a.tar.gz")
    assert (code, err) == (1, "error: a.tar.gz exists. Name another file.\n")
    code, out, _ = sweeper("verify", "--protocol", "quick", "--json")
    judged = json.loads(out.splitlines()[-1])
    shutil.rmtree(home / "journal")
    code, out, err = sweeper("verify", "--protocol", "quick", "--journal", "a.tar.gz", "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1]) == judged
    assert judged["runs"]["exp1"][0]["journal"] == "reproduce-quick-30/exp1/seed-0"
    assert not (home / "journal").exists()
    code, out, _ = sweeper("reproduce", "--import", "a.tar.gz", "--json")
    assert (code, json.loads(out)["added"]) == (0, 10)


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("reproduce", "--export", "a", "--import", "b"), 2, "--export and --import are two commands"),
        (("reproduce", "--export", "a", "--seeds", "5"), 2, "--seeds has no part in --export. Leave it out"),
        (("reproduce", "--import", "a", "--protocol", "quick"), 2, "--protocol has no part in --import"),
        (("reproduce", "--export", "a"), 1, "holds no finished run of protocol full. Run sweeper reproduce --protocol"),
        (("reproduce", "--import", "nowhere"), 1, "nowhere cannot be read (No such file or directory)"),
        (("reproduce", "--import", "."), 2, "is a directory"),
        (("verify", "--journal", "quick.tar.gz"), 2, "is a recording of protocol quick. Add --protocol quick"),
    ],
)  # fmt: skip
def test_what_the_commands_refuse(
    argv: tuple[str, ...], code: int, says: str, file: Path, new: Path, sweeper: Command, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SWEEPER_HOME", str(new))
    answer = sweeper(*argv)
    assert answer[0] == code
    assert says in answer[2]
    assert answer[2].count("\n") == 1
    assert everything(new) == set()
