"""The ``compress`` command. Thin: every body calls one function of the room that does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress import launch
from compress.cli import console
from compress.cli.console import Debug
from compress.errors import EXIT_GATE_FAIL, EXIT_GATE_INCONCLUSIVE, EXIT_OK
from runtime.cli import chat_command, serve_command, verify_command

app = typer.Typer(
    name="compress",
    help="Compress a fine-tuned language model for the edge and prove that it still keeps the rules.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all gates pass, 1 operational failure, 2 bad usage, a bad config or a missing path, "
    "3 gate or parity FAIL, 4 gate INCONCLUSIVE, 130 interrupted, 143 terminated (the same command again goes on).",
)

EXIT_OF = {"PASS": EXIT_OK, "FAIL": EXIT_GATE_FAIL, "INCONCLUSIVE": EXIT_GATE_INCONCLUSIVE, None: EXIT_OK}

Config = Annotated[Path, typer.Argument(help="Pipeline file (YAML).", show_default=False)]
ArtifactPath = Annotated[Path, typer.Argument(help="Artifact: a folder or a .gguf file.", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="Run folder, or the run's name.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: a.b=v or STAGE.PARAM=v (repeat)."),
]
With = Annotated[
    list[str] | None, typer.Option("--with", metavar="KEY=VALUE", help="Stage parameter, its parts with dots (repeat).")
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="[SPLIT=]FILE", help="Evaluation JSONL, a data folder, or SPLIT=FILE (repeat)."),
]
Rules = Annotated[Path | None, typer.Option("--rules", help="Rule file (YAML).")]
Out = Annotated[Path, typer.Option("--out", help="Where the result goes.", show_default=False)]
WorkDir = Annotated[Path, typer.Option("--work-dir", help="Folder of the store and of the runs.")]
To = Annotated[
    list[Path] | None,
    typer.Option(
        "--to", metavar="FILE", help="Also write the verdict there: .html, .json, .md or .xml (JUnit); repeat."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
WORK = Path("work")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"holdfast-toolkit {version('holdfast-toolkit')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of every command line."""


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("pipeline.yaml"),
    source: Annotated[Path | None, typer.Option("--source", help="Model folder or .gguf to start from.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Training JSONL or a folder of splits.")] = None,
    rules: Rules = None,
    debug: Debug = False,
) -> None:
    """Write a commented starter pipeline."""
    with console.errors(debug=debug):
        from compress.cli.starter import write_starter

        write_starter(path, source=source, data=data, rules=rules)
        console.note(f"wrote {path}; next: compress plan {path}")


@app.command()
def plan(
    config: Config, overrides: Set = None, work_dir: WorkDir = WORK, json: Json = False, debug: Debug = False
) -> None:
    """Show what would run and what it needs. Nothing is run; what is cached is told apart."""
    with console.errors(debug=debug):
        from compress.cli.commands import show_plan

        show_plan(config, overrides or [], work_dir, as_json=json)


@app.command()
def pipeline(
    config: Config,
    overrides: Set = None,
    on: Annotated[str, typer.Option("--on", help="Where stages run; only on this machine yet.")] = "local",
    work_dir: WorkDir = WORK,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Plan, run, gate and package."""
    with console.errors(debug=debug), console.stoppable():
        from compress.cli.commands import run_pipeline

        state = run_pipeline(config, overrides or [], work_dir, on=on, as_json=json)
        raise typer.Exit(EXIT_OF[state.verdict])


@app.command()
def run(
    stage: Annotated[str, typer.Argument(help="Stage name, e.g. quantize.gptq.", show_default=False)],
    out: Out,
    sources: Annotated[
        list[Path] | None, typer.Option("--from", metavar="ARTIFACT", help="Input artifact (repeat).")
    ] = None,
    values: With = None,
    data: Data = None,
    rules: Rules = None,
    seed: Seed = 0,
    work_dir: WorkDir = WORK,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run one stage without a pipeline file."""
    with console.errors(debug=debug), console.stoppable():
        from compress.cli.commands import run_stage

        artifact = run_stage(stage, sources or [], values or [], out, data or [], rules, seed, work_dir)
        summary = {"kind": artifact.kind, "path": str(artifact.path), "digest": artifact.digest}
        if launch.place().leads:
            console.emit(summary) if json else typer.echo(f"{artifact.kind} {artifact.path}")


@app.command()
def status(run: RunPath, work_dir: WorkDir = WORK, json: Json = False, debug: Debug = False) -> None:
    """Show how far a run is."""
    with console.errors(debug=debug):
        from compress.cli.commands import show_status

        show_status(run, work_dir, as_json=json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder, the run's name, or a proof folder.", show_default=False)],
    to: Annotated[
        list[Path] | None,
        typer.Option(
            "--to", metavar="FILE", help="Write the verdict there instead: .html, .json, .md or .xml (JUnit); repeat."
        ),
    ] = None,
    work_dir: WorkDir = WORK,
    debug: Debug = False,
) -> None:
    """Write a run's HTML report, or its verdict. The paths are printed."""
    with console.errors(debug=debug):
        from compress.cli.commands import write_report, write_verdict

        for path in write_verdict(run, work_dir, to) if to else [write_report(run, work_dir)]:
            typer.echo(path)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders or names.", show_default=False)],
    work_dir: WorkDir = WORK,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare the candidates of runs. Their size, latency, memory, accuracy and adherence."""
    with console.errors(debug=debug):
        from compress.cli.commands import compare_runs

        compare_runs(runs, work_dir, as_json=json)


@app.command()
def validate(
    artifact: ArtifactPath,
    baseline: Annotated[
        Path, typer.Option("--baseline", help="Artifact it must not be worse than.", show_default=False)
    ],
    rules: Rules = None,
    data: Data = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="NAME[=FILE]",
            help="A public set by name, such as gsm8k or gsm8k=FILE (repeat); no --rules, no --data.",
        ),
    ] = None,
    items: Annotated[
        int | None, typer.Option("--items", min=1, help="Items of each suite.", show_default=False)
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            "--classifier",
            metavar="LABEL=FOLDER",
            help="A text classifier in ONNX that judges the suite toxicity, such as toxic=./toxic-bert.",
            show_default=False,
        ),
    ] = None,
    values: With = None,
    to: To = None,
    work_dir: WorkDir = WORK,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Gate an artifact against a baseline. On your rules and items, or on a public set."""
    with console.errors(debug=debug), console.stoppable():
        from compress.cli.commands import validate_artifact
        from compress.cli.suites import named_suites

        by, asked = named_suites(suite or [], rules, data or [], work_dir, items, classifier)
        verdict = validate_artifact(artifact, baseline, by, asked, values or [], work_dir, to=to or [], as_json=json)
        raise typer.Exit(EXIT_OF[verdict])


PLANNED = "With --plan: "


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


@app.command()
def gate(
    context: typer.Context,
    baseline: Annotated[Path | None, typer.Option("--baseline", help="Recorded replies (JSONL).")] = None,
    candidate: Annotated[Path | None, typer.Option("--candidate", help="Recorded replies (JSONL).")] = None,
    rules: Rules = None,
    to: To = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say how many items it will take; judge nothing.")] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help=PLANNED + "items (JSONL) that show how often each rule is in force."),
    ] = None,
    hard: Annotated[int, typer.Option("--hard", min=0, help=PLANNED + "hard rules, without a rule file.")] = 0,
    soft: Annotated[int, typer.Option("--soft", min=0, help=PLANNED + "soft rules, without a rule file.")] = 0,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            "--margin", metavar="NAME=SHARE", help=PLANNED + "accuracy, adherence or rule, as in validate (repeat)."
        ),
    ] = None,
    discordance: Annotated[float, typer.Option(help=PLANNED + "share of answers that change, either way.")] = 0.02,
    difference: Annotated[float, typer.Option(help=PLANNED + "candidate - baseline, as a share.")] = 0.0,
    violations: Annotated[float, typer.Option(help=PLANNED + "share of replies that truly break a hard rule.")] = 0.002,
    power: Annotated[float, typer.Option(help=PLANNED + "wanted probability that all tests pass.")] = 0.9,
    cluster_size: Annotated[float, typer.Option(help=PLANNED + "items that belong together.")] = 1.0,
    icc: Annotated[float, typer.Option(help=PLANNED + "correlation in a cluster; 1: it is one item.")] = 1.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Gate recorded replies, or plan how many it takes. They may come from any two systems."""
    with console.errors(debug=debug):
        from compress.cli.gating import check_gate_options, gate_replies, plan_replies

        check_gate_options([name for name in context.params if _given(context, name)], plan=plan)
        if plan:
            assumed = {"discordance": discordance, "difference": difference, "violations": violations, "power": power}
            assumed |= {"cluster_size": cluster_size, "icc": icc}
            plan_replies(rules, data, hard, soft, margin or [], assumed, as_json=json)
            return
        raise typer.Exit(EXIT_OF[gate_replies(baseline, candidate, rules, to=to or [], as_json=json)])


rules_app = typer.Typer(name="rules", help="Look into a rule file.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(rules_app)
RuleFile = Annotated[Path, typer.Argument(help="Rule file (YAML).", show_default=False)]


@rules_app.command("check")
def rules_check(
    file: RuleFile,
    data: Annotated[Path | None, typer.Option("--data", help="Items (JSONL): which rules they test.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a rule file with its fixtures and say what nothing tests."""
    with console.errors(debug=debug):
        from compress.cli.rule_tools import check_rules

        check_rules(file, data, as_json=json)


@rules_app.command("explain")
def rules_explain(
    file: RuleFile,
    user: Annotated[str, typer.Option("--user", help="The customer's message.", show_default=False)] = "",
    reply: Annotated[str | None, typer.Option("--reply", help="A reply to judge, or @FILE.")] = None,
    fact: Annotated[list[str] | None, typer.Option("--fact", metavar="NAME=VALUE", help="A fact (repeat).")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="LABEL", help="A label (repeat).")] = None,
    prompted: Annotated[
        list[str] | None, typer.Option("--prompted", metavar="RULE", help="A rule named in the prompt (repeat).")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="ID=TEXT", help="A document (repeat).")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which rules are in force for a message and what they say of a reply. Exit code 3 if a hard rule is broken."""
    with console.errors(debug=debug):
        from compress.cli.rule_tools import explain_reply, read_reply, show_explanation
        from runtime.cli import parse_facts

        text = read_reply(reply) if reply else reply
        found = explain_reply(file, user, text, parse_facts(fact or []), label or [], prompted or [], source or [])
        show_explanation(found, as_json=json)
        broken = any(rule["kept"] is False and rule["severity"] == "hard" for rule in found["rules"])
        raise typer.Exit(EXIT_GATE_FAIL if broken else EXIT_OK)


@rules_app.command("schema")
def rules_schema(debug: Debug = False) -> None:
    """Print the JSON Schema of rule files, for editors that complete and check YAML by one."""
    with console.errors(debug=debug):
        from compress.cli.rule_tools import schema_text

        print(schema_text(), end="")


@app.command()
def bench(artifact: ArtifactPath, json: Json = False, debug: Debug = False) -> None:
    """Measure an artifact in its own runtime. TTFT, tokens/s, peak memory and size."""
    with console.errors(debug=debug):
        from compress.cli.commands import bench_artifact

        bench_artifact(artifact, as_json=json)


@app.command()
def package(
    artifact: ArtifactPath,
    out: Out,
    rules: Rules = None,
    data: Data = None,
    work_dir: WorkDir = WORK,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a bundle of one artifact."""
    with console.errors(debug=debug), console.stoppable():
        from compress.cli.commands import run_stage

        made = run_stage("export.bundle", [artifact], [], out, data or [], rules, 0, work_dir)
        console.emit({"kind": made.kind, "path": str(made.path), "digest": made.digest}) if json else typer.echo(
            made.path
        )


for _name, _command in (("verify", verify_command), ("chat", chat_command), ("serve", serve_command)):
    app.command(_name)(console.shared(_command))


def main() -> None:
    """Console entry point."""
    app()
