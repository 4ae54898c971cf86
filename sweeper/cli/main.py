"""The command line: parse, call, print. Imports what a command needs when it runs, so that --help is quick."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import gc
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from sweeper import __version__
from sweeper.cli_options import (
    EXP_HELP,
    MAX_WORKERS,
    Duration,
    Experiment,
    Experiments,
    Number,
    OrAuto,
    ends_unread,
    engine_options,
    json_option,
    machine,
    overrides,
    shared,
    storage_option,
    tracked,
    tracking_option,
)
from sweeper.cli_serve import backup, restore, serve
from sweeper.errors import Interrupted, SweeperError, UsageError

if TYPE_CHECKING:
    from sweeper.arms import ProtocolName
    from sweeper.engine_choice import EngineChoice
    from sweeper.environment import Environment
    from sweeper.report.ledger import Ledger

MAX_TRIALS: Final = 1_000_000
MAX_SEEDS: Final = 1_000
SHOWS: Final = {"-h", "--help", "--version", "status"}  # which is done when whoever reads has had enough
# How long torch's threads spin at a barrier. The default spins for milliseconds, and a second
# process on the same cores then makes training up to ten times slower (docs/log.md).
SPIN_COUNT: Final = "10000"
# When garbage is collected. By Python's own thresholds, all that torch, MLflow and pandas have imported is looked
# through again and again while they are imported, for seconds of a short command.
COLLECT_AFTER: Final = 50_000, 10, 20


class Commands(click.Group):
    """A group that suggests the command that was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a suggestion."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(known)}"
            raise click.UsageError(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Learn how Batch Normalization and Dropout should be combined in a network, with every run in MLflow.

    State lives in the working directory, or in SWEEPER_HOME: mlflow.db, mlartifacts, sweeper.db, journal.
    """


@cli.command()
@click.option("--exp", type=Experiment(), default=6, show_default=True, help=EXP_HELP)
@overrides
@click.option("--split", type=OrAuto(click.Choice(["blog", "holdout"])), default="auto", show_default=True,
              help="blog: validate on the test images, as the study; holdout: on held-out training images.",
)  # fmt: skip
@shared
@ends_unread
def train(exp: int, split: str | None, **options: Any) -> None:
    """Train one experiment, with its accuracy and loss curves.

    auto takes the experiment's own value.
    """
    from sweeper.config import experiment

    fields = _given(options, "epochs", "batch_size", "placement", "conv_dropout", "head_dropout", "lr", "seed")
    fields |= {"split": split} if split else {}
    fields |= _device(options)
    experiment(exp, **fields)  # a wrong value is answered before anything large is imported
    env = make_environment(options)
    from sweeper import service

    chosen = service.choose(env, exp, options["dataset"], options["device"], options["precision"], fields)
    for name in ("conv_dropout", "head_dropout"):
        if fields.get(name, 0) != getattr(chosen.config, name) and name in fields:
            env.warn(
                f"{name}={fields[name]} has no effect: placement {chosen.config.placement.value} has no Dropout there"
            )
    result = service.train_one(env, chosen, os.environ.get("MLFLOW_RUN_ID"))
    metrics = result["metrics"]
    env.say(f"final val accuracy {metrics['final/val_accuracy']:.4f}, loss {metrics['final/val_loss']:.4f}")
    _say_where(env, result["run_id"])
    _print_json(env, result)


@cli.command()
@click.option(
    "--trials",
    type=click.IntRange(1, MAX_TRIALS),
    default=50,
    show_default=True,
    help="Finished trials, complete or pruned, that the study shall have.",
)
@click.option("--study", default="sweep", show_default=True, help="Name; an existing study is continued.")
@click.option(
    "--exp",
    type=Experiment(),
    default=6,
    show_default=True,
    help="The experiment whose model and recipe the search varies.",
)
@click.option(
    "--model",
    type=OrAuto(click.Choice(["small", "medium", "large"])),
    default="auto",
    show_default=True,
    help="Network size.",
)
@click.option(
    "--augmentation",
    type=OrAuto(click.Choice(["none", "crop-flip", "crop-flip-erase"])),
    default="auto",
    show_default=True,
    help="Of the training images.",
)
@click.option("--epochs", type=OrAuto(click.IntRange(1)), default="auto", show_default=True, help="Epochs of a trial.")
@engine_options
@click.option(
    "--folds",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Stratified folds that a trial is the mean of; 0: one held-out set.",
)
@click.option(
    "--space",
    type=OrAuto(click.Path(path_type=Path)),
    default="auto",
    show_default=True,
    metavar="auto|FILE",
    help="Search space in YAML.",
)
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "gp", "qmc", "random"]),
    default="tpe",
    show_default=True,
    help="How the next trial is chosen.",
)
@click.option(
    "--pruner",
    type=click.Choice(["percentile", "median", "none"]),
    default="percentile",
    show_default=True,
    help="Which trials are stopped early: the worst quarter, the worse half, none.",
)
@click.option(
    "--timeout",
    type=OrAuto(Number(0, min_open=True)),
    default="auto",
    show_default=True,
    metavar="auto|SECONDS",
    help="Ask for nothing more after this long; auto: never.",
)
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=2,
    show_default=True,
    help="How often a trial is tried again after its worker died or memory ran out.",
)
@click.option(
    "--final/--no-final",
    default=True,
    show_default=True,
    help="Retrain the best on train and validation, and evaluate it once on the test images.",
)
@storage_option
@shared
@ends_unread
def optimize(exp: int, **options: Any) -> None:
    """Search dropout rates, batch size and placement; finish exactly --trials trials.

    The same command again continues a sweep that was stopped, and adds nothing to one that is done.
    """
    from sweeper.config import check_name, experiment
    from sweeper.space import default_space, read_space

    check_name(options["study"])
    if options["folds"] == 1:
        raise click.BadParameter("1: cross-validation needs 2 or more folds, 0 means none", param_hint="--folds")
    space = read_space(options["space"]) if options["space"] else default_space()
    fields = _given(options, "epochs", "model", "augmentation", "seed")
    fields |= {"split": "folds", "folds": options["folds"]} if options["folds"] else {"split": "holdout"}
    space.validate(experiment(exp, **fields, **_device(options)))
    env = make_environment(options)
    _start_workers(options)
    from sweeper import service

    chosen = service.choose(env, exp, options["dataset"], options["device"], options["precision"], fields)
    asked = {
        name: options[name] for name in ("study", "trials", "sampler", "pruner", "seed", "timeout", "retries", "final")
    }
    result = service.optimize(env, chosen, service.SweepOptions(space=space, engine=_engine(options), **asked))
    _say_best(env, result)
    env.say(f"report: {result['report']}")
    _say_where(env, None)
    _print_json(env, result)
    service.check_finished(result, options["trials"])


@cli.command()
@click.option(
    "--exp",
    type=OrAuto(Experiments()),
    default="auto",
    show_default=True,
    help="Experiments of the study, by number; auto: all.",
)
@click.option(
    "--seeds",
    type=OrAuto(click.IntRange(1, MAX_SEEDS)),
    default="auto",
    show_default=True,
    help="Seeds 0, 1, ... of each arm; auto: those of the protocol.",
)
@click.option(
    "--protocol",
    type=click.Choice(["full", "quick"]),
    default="full",
    show_default=True,
    help="full: all training images; quick: 12,000 of them and 6 epochs.",
)
@click.option(
    "--arms",
    type=OrAuto(click.Choice(["all", "experiments"])),
    default="auto",
    show_default=True,
    help="experiments: the study's own; all: also their variants, which the claims compare; "
    "auto: all, but with --exp experiments.",
)
@engine_options
@click.option("--dry-run", is_flag=True, help="Say what would be trained, and how long it takes; train nothing.")
@click.option("--offline", is_flag=True, help="The same as --tracking-uri offline.")
@machine
@tracked
@ends_unread
def reproduce(**options: Any) -> None:
    """Train the study's experiments with several seeds; what is recorded is not trained again.

    The same command again continues a reproduction that was stopped.
    """
    from sweeper.environment import OFFLINE

    if options["offline"] or options["dry_run"]:
        options["tracking_uri"] = OFFLINE
    env = make_environment(options)
    if not options["dry_run"]:
        _start_workers(options)
    from sweeper import reproduce as reproduction
    from sweeper.plan import Options
    from sweeper.verify import record_report

    only = options["arms"] == "experiments" or (options["arms"] is None and options["exp"] is not None)
    asked = Options(options["protocol"], options["exp"] or (), only, options["seeds"], _engine(options))
    chosen = reproduction.choose_machine(env, options["dataset"], options["device"], options["precision"])
    if options["dry_run"]:
        _print_json(env, reproduction.dry_run(env, chosen, asked))
        return
    result = reproduction.reproduce(env, chosen, asked, record_report)
    _say_arms(env, result)
    _say_where(env, None)
    _print_json(env, result)
    reproduction.check_failed(result)


@cli.command()
@click.option(
    "--protocol",
    type=click.Choice(["full", "quick"]),
    default="full",
    show_default=True,
    help="Of the runs that are judged, as sweeper reproduce trains them.",
)
@click.option(
    "--journal",
    type=OrAuto(click.Path(path_type=Path)),
    default="auto",
    show_default=True,
    metavar="auto|DIR",
    help="Where they are recorded; auto: SWEEPER_HOME/journal.",
)
@click.option(
    "--plan",
    "settle",
    is_flag=True,
    help="Train what settles the claims that are nearest to being settled, then judge again.",
)
@click.option(
    "--budget",
    type=Duration(),
    default="30m",
    show_default=True,
    help="Time for --plan, such as 90s, 30m or 2h; 0: only say what it would train.",
)
@click.option(
    "--data-dir",
    type=OrAuto(click.Path(path_type=Path)),
    default="auto",
    show_default=True,
    metavar="auto|DIR",
    help="Folder of the FashionMNIST files, for --plan.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
    default=1,
    show_default=True,
    help="Worker processes for --plan, as sweeper reproduce had.",
)
@tracking_option
@json_option
def verify(
    protocol: ProtocolName, journal: Path | None, settle: bool, budget: float, workers: int, **options: Any
) -> None:
    """Judge the study's 28 claims by the runs of sweeper reproduce, and write the ledger of verdicts.

    It is written to report/PROTOCOL in SWEEPER_HOME, as ledger.html, .md, .png and .json.
    """
    if not settle:
        _refuse("for --plan only, which trains; add --plan, or leave it out", "budget", "workers", "data_dir")
    if journal is not None and settle:
        raise click.UsageError("--plan trains into SWEEPER_HOME/journal: set SWEEPER_HOME in place of --journal")
    env = make_environment(options, check_tracking=settle)
    from sweeper import verify as verification

    found = verification.verify(journal or env.journal, protocol)
    if settle:
        found = verification.settle(env, found, budget, workers)
    ledger, result = verification.publish(env, found)
    _say_ledger(env, ledger, result)
    _print_json(env, result)
    if found.incomplete:
        raise found.incomplete


def _refuse(why: str, *names: str) -> None:
    """Options that would not be read shall not be passed over in silence."""
    context = click.get_current_context()
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{given[0]}: {why}")


@cli.command()
@click.argument("study", required=False)
@storage_option
@json_option
def status(study: str | None, **options: Any) -> None:
    """Show how far a sweep is, from another terminal; by default the newest."""
    from sweeper.progress import status_lines
    from sweeper.study import read_study

    env = make_environment(options)
    view = read_study(study, env.storage)
    if not env.json_output:
        for line in status_lines(view):
            env.say(line)
    trials = [row._asdict() | {"params": dict(row.params)} for row in view.rows]
    _print_json(env, {"study": view.name, "target": view.target, "trials": trials})


@cli.command()
@click.argument("study", required=False)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Where to write it. [default: report/STUDY.html in SWEEPER_HOME]")  # fmt: skip
@click.option("--protocol", type=OrAuto(click.Choice(["full", "quick"])), default="auto", show_default=True,
              help="Of the reproduction; auto: the one that has runs, full if both have.")  # fmt: skip
@tracking_option
@storage_option
@json_option
def report(study: str | None, output: Path | None, protocol: ProtocolName | None, **options: Any) -> None:
    """Write the report of a sweep, by default the newest: one HTML file that needs no network.

    STUDY is a sweep, or the word reproduce, for what sweeper reproduce has trained; the study's eight figures are then
    written beside the report as well, as a PNG image for print. --storage is for a sweep, --protocol for the
    reproduction, and so is --tracking-uri, for links to its runs in MLflow.
    """
    if study == "reproduce":
        _refuse("for a sweep only; the reproduction is read from the journal: leave it out", "storage")
    else:
        _refuse("for sweeper report reproduce only: leave it out", "protocol", "tracking_uri")
    from sweeper import reports
    from sweeper.study import read_record

    env = make_environment(options, check_tracking=False)
    if study == "reproduce":
        from sweeper.arms import PROTOCOLS
        from sweeper.verify import sections

        protocol = protocol or reports.recorded_protocol(env)
        name = PROTOCOLS[protocol].folder
        runs = reports.finished_runs(env, protocol)
        page = reports.reproduction_report(runs, protocol, sections(env, protocol, runs))
        figures = reports.reproduction_print(runs, protocol)
    else:
        record = read_record(study, env.storage)
        name, page, figures = record.name, reports.sweep_report(env, record), None
    path = output or reports.report_path(env, name)
    reports.write_report(path, page)
    result: dict[str, Any] = {"study": name, "report": str(path), "bytes": len(page)}
    env.say(f"report of {name!r}: {path} ({len(page) / 1e6:.1f} MB)")
    if figures is not None:
        result["figures"] = str(path.with_suffix(".png"))
        reports.write_report(path.with_suffix(".png"), figures)
        env.say(f"figures 4 to 11 for print: {result['figures']}")
    _print_json(env, result)


@cli.command()
@click.argument("journal", required=False, type=click.Path(path_type=Path))
@tracking_option
@json_option
def sync(journal: Path | None, **options: Any) -> None:
    """Carry to MLflow what is only in a journal yet: after an outage, or from a machine without MLflow."""
    from sweeper import environment, tracking
    from sweeper.preflight import hide_password
    from sweeper.progress import counted
    from sweeper.report import plots

    env = make_environment(options)
    root = journal or env.journal
    if not root.is_dir():
        raise SweeperError(f"{root}: not a folder; name a journal, which a run leaves in SWEEPER_HOME/journal")
    if env.tracking_uri in (environment.OFFLINE, environment.NONE):
        raise UsageError(f"--tracking-uri {env.tracking_uri}: a journal is carried to a server or a database")
    carried = tracking.sync(root, env.tracking_uri, env.home, plots.curves, env.warn)
    env.say(f"{counted(carried, 'run')} carried from {root} to {hide_password(env.tracking_uri)}")
    _print_json(env, {"carried": carried})


@cli.command()
@click.argument("run", metavar="RUN_ID|FOLDER")
@click.option("--data-dir", type=OrAuto(click.Path(path_type=Path)), default="auto", show_default=True,
              metavar="auto|DIR", help="Folder of the four FashionMNIST files.")  # fmt: skip
@tracking_option
@json_option
def replay(run: str, **options: Any) -> None:
    """Train a recorded run again, and say whether it comes out the same, bit by bit.

    RUN_ID is a run in MLflow, FOLDER one of a journal. Exit code 1 means that it did not.
    """
    from sweeper import replay as replays

    env = make_environment(options, check_tracking=False)
    done = replays.replay(env, run)
    if done.identical:
        weights = "the weights" if done.weights else "no weights, which were not recorded"
        env.say(f"identical: {done.epochs} epochs and {weights}")
    else:
        env.say(f"different: {done.difference}")
        env.say("not as it was: " + ("; ".join(done.environment) or "nothing that was recorded"))
    _print_json(env, done.describe())
    if not done.identical:
        raise click.exceptions.Exit(1)


for _command in (serve, backup, restore):
    cli.add_command(_command)


# --- from options to an environment, and from results to words ---------------------------------------


def make_environment(options: dict[str, Any], *, check_tracking: bool = True) -> Environment:
    """The environment that a command's options and the process's variables describe."""
    from sweeper import environment
    from sweeper.preflight import preflight, store_uri

    home = environment.check_home(Path(os.environ.get("SWEEPER_HOME") or "."))
    json_output = bool(options.get("json_output"))
    uri, storage = options.get("tracking_uri"), options.get("storage")
    uri = environment.tracking_url(home) if uri is None else store_uri(uri)
    if os.environ.get("SWEEPER_OFFLINE") == "1":
        uri = environment.OFFLINE
    if check_tracking and "tracking_uri" in options and uri not in (environment.OFFLINE, environment.NONE):
        preflight(uri)
    storage = environment.storage_url(home) if storage is None else storage
    environment.database_url(storage)
    return environment.Environment(
        home=home,
        tracking_uri=uri,
        storage=storage,
        data_dir=options.get("data_dir"),
        json_output=json_output,
        warn=lambda text: click.echo(f"warning: {text}", err=True),
        say=lambda text: click.echo(text, err=json_output),
    )


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options that were given a value, as fields of a run."""
    return {name: options[name] for name in names if options[name] is not None}


def _engine(options: dict[str, Any]) -> EngineChoice:
    from sweeper.engine_choice import EngineChoice

    return EngineChoice(options["engine"], options["workers"], options["address"], options["cpus_per_trial"],
                        options["gpus_per_trial"])  # fmt: skip


def _start_workers(options: dict[str, Any]) -> None:
    """Let what workers are forked from import torch while this process imports what it needs itself, which may be torch
    too."""
    from sweeper.engine.forkserver import FORKING, start_server

    if options["engine"] in FORKING:
        start_server()
    from sweeper.engine_choice import likely_here

    if likely_here(options["engine"], options["device"]):
        from sweeper import engines  # noqa: F401


def _device(options: dict[str, Any]) -> dict[str, str]:
    return {} if options["device"] == "auto" else {"device": options["device"]}


def _say_best(env: Environment, result: dict[str, Any]) -> None:
    counts = f"{result['finished']} trials finished: {result['complete']} complete, {result['pruned']} pruned"
    env.say(f"study {result['study']!r}: {counts}; {result['added']} added now")
    if best := result["best"]:
        shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in best["params"].items())
        env.say(f"best: trial {best['trial']}, val accuracy {best['val_accuracy']:.4f}, loss {best['val_loss']:.4f}")
        env.say(f"      {shown}")
    if test := result.get("test"):
        env.say(
            f"test accuracy of the best, retrained on train + validation: {test['test/accuracy']:.4f} (evaluated once)"
        )


def _say_arms(env: Environment, result: dict[str, Any]) -> None:
    from sweeper.report.rows import ArmSummary, table

    env.say(f"{result['recorded']} of {result['runs']} runs are recorded; {result['added']} added now")
    for line in table([ArmSummary(**row) for row in result["arms"]]):
        env.say(line)
    env.say(f"what the study claims is judged with: sweeper verify --protocol {result['protocol']}")


def _say_ledger(env: Environment, ledger: Ledger, result: dict[str, Any]) -> None:
    """The table of verdicts, as wide as the terminal."""
    from sweeper.report.ledger import counts, provenance_line, text_table, untestable

    width = shutil.get_terminal_size((100, 24)).columns
    if not env.json_output:
        for line in (*text_table(ledger, width), *untestable(ledger, width)):
            env.say(line)
    env.say(f"{counts(ledger)}. {provenance_line(ledger)}")
    env.say(f"ledger: {result['report']}/ledger.html")


def _say_where(env: Environment, run_id: str | None) -> None:
    """Where the runs are, and how to look at them."""
    from sweeper.environment import NONE, OFFLINE
    from sweeper.preflight import hide_password, sqlite_file
    from sweeper.tracking import ui_link

    if env.tracking_uri in (NONE, OFFLINE):
        env.say(f"journal: {env.journal}" if env.tracking_uri == OFFLINE else "nothing was recorded")
        return
    if env.tracking_uri.startswith("sqlite"):
        env.say(f"MLflow database: {sqlite_file(env.tracking_uri).resolve()}")
        env.say(f"open it with:    {_mlflow()} server --port 5000 --workers 1 --backend-store-uri {env.tracking_uri}")
        env.say(f"then look at:    {ui_link('http://127.0.0.1:5000', env.tracking_uri, run_id)}")
    else:
        base = hide_password(env.tracking_uri) if env.tracking_uri.startswith("http") else "http://127.0.0.1:5000"
        env.say(f"look at:         {ui_link(base, env.tracking_uri, run_id)}")


def _mlflow() -> str:
    """The mlflow command of this environment, by a path if it is not the one on PATH."""
    ours = Path(sys.executable).parent / "mlflow"
    found = shutil.which("mlflow")
    active = "VIRTUAL_ENV" in os.environ or "CONDA_PREFIX" in os.environ
    if not ours.exists() or (active and found and Path(found).resolve() == ours.resolve()):
        return "mlflow"
    return os.path.relpath(ours) if ours.is_relative_to(Path.cwd()) else str(ours)


def _print_json(env: Environment, result: dict[str, Any]) -> None:
    if env.json_output:
        click.echo(json.dumps(result))


def main() -> None:
    """Run the command line; every error is one line on stderr, and an exit code."""
    debug = "--debug" in sys.argv[1:2]
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    gc.set_threshold(*COLLECT_AFTER)
    atexit.register(_leave_uncollected)
    try:
        code = cli(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:  # no command at all
        click.echo(error.format_message(), err=True)
        code = error.exit_code
    except click.ClickException as error:
        code = _complain(_usage(error), error.exit_code)
    except click.Abort:
        code = 130
    except SystemExit:  # click's, with code 1 where nobody reads any more
        if not SHOWS & set(sys.argv[1:]):
            raise
        code = 0
    except KeyboardInterrupt:
        code = 130
    except Interrupted as stopped:
        code = _complain(str(stopped), stopped.exit_code)
    except Exception as error:
        if debug:
            raise
        code = _complain(_explain(error), getattr(error, "exit_code", 1))
    _drop_unwritten()
    sys.exit(code if isinstance(code, int) else 0)


def _leave_uncollected() -> None:
    """Spare the interpreter's end a search for garbage in all that was imported: it makes one more than once.

    Triton, which torch loads to export a champion, complains of whatever it still finds then: it gets its search.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def _drop_unwritten() -> None:
    """Forget what stdout and stderr do not take: Python would try again at its end, and make the exit code 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _usage(error: click.ClickException) -> str:
    """Click's message as one line, with where to find the options."""
    text = " ".join(error.format_message().split())
    ctx = getattr(error, "ctx", None)
    return f"{text[0].lower()}{text[1:].rstrip('.')} (see {ctx.command_path if ctx else 'sweeper'} --help)"


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:  # of the disk, or what the user named
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    known = isinstance(error, SweeperError) or hasattr(error, "exit_code")
    return text if known else f"{type(error).__name__}: {text or 'no message'} (sweeper --debug … shows where)"


def _complain(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # stderr may be the same as the stdout that takes no more
        click.echo(f"error: {text}", err=True)
    return code
