"""Examples of every command, shown below its help. The first of each runs on a laptop."""

from __future__ import annotations

import typer

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "generate": (
        ("rstar generate --round 1", "the embedded model; makes runs/default where there is none"),
        ("rstar generate --round 2 --method mcts --prm last --rollouts 32 --enough 4", "guided by round 1's PRM"),
        ("rstar generate --problems math500 --policy Qwen/Qwen2.5-Math-1.5B-Instruct --output trees.jsonl", "no run"),
        ("rstar generate --round 1 --trees rstar.jsonl", "search trees of microsoft/rStar; then verify, show, train"),
        ("rstar generate --round 1 --shard 2/8", "one of eight machines; then rstar merge"),
    ),
    "verify": (
        ("rstar verify --round 1", "solutions, training rows, pairs and step labels of round 1"),
        ("rstar verify --input rows.jsonl --output -", "anybody's answers, solutions or programs, as a stream"),
        ("rstar verify --round 1 --top 4 --pairs paper", "four solutions a problem, the paper's pairs"),
    ),
    "train-policy": (
        ("rstar train-policy --round 1", "from the base, on the solutions of all rounds so far"),
        ("rstar train-policy --round 2 --start previous --held-out 0.05 --patience 4", "stops early"),
        ("rstar train-policy --input rows.jsonl --model Qwen/Qwen2.5-0.5B --output mine --lora-rank 16", "no run"),
        ("rstar train-policy --round 1 --dry-run", "memory and time, before anything is loaded"),
    ),
    "train-prm": (
        ("rstar train-prm --round 1", "from round 1's policy"),
        ("rstar train-prm --round 1 --objective ppm", "the paper's preference model, from pairs"),
        ("rstar train-prm --input labels.jsonl --model mine --output prm --objective prm-hard", "no run"),
    ),
    "evaluate": (
        ("rstar evaluate --round 1", "the recipe's sets: greedy, votes, pass@k, search"),
        ("rstar evaluate --compare 0 1", "the gain of round 1, with its paired interval"),
        ("rstar evaluate --policy Qwen/Qwen2.5-Math-1.5B-Instruct --benchmark math500 --samples 16", "no run"),
    ),
    "evolve": (
        ("rstar evolve", "the embedded model's four rounds in runs/default; goes on where it was"),
        ("rstar evolve --run runs/mine --recipe my.toml --plateau 2", "until two rounds bring no clear gain"),
        ("rstar evolve --run runs/mine --budget-hours 8", "until the night is over"),
        ("rstar evolve --recipe my.toml --dry-run", "settings, a prompt, and a bound of the cost"),
    ),
    "init": (
        ("rstar init", "runs/default with the embedded model's recipe"),
        ("rstar init --run runs/mine --recipe my.toml", "your own"),
        ("rstar init --schema", 'for editors: save it, and head the recipe by "#:schema ./recipe.schema.json"'),
    ),
    "merge": (
        ("rstar merge --round 1", "every stage of round 1 that was done in shards"),
        ("rstar merge --output trees.jsonl", "trees that were made outside a run"),
        ("rstar merge --output eval/mine", "an evaluation outside a run"),
    ),
    "export": (
        ("rstar export", "prompts and completions of all rounds so far, into train.jsonl"),
        ("rstar export --format preference --output pairs.parquet", "pairs, for TRL's reward or DPO trainers"),
        ("rstar export --format stepwise --push-to-hub me/steps", "labelled steps, as a data set with a card"),
    ),
    "status": (
        ("rstar status", "of $RSTAR_RUN, else runs/default"),
        ("rstar status --run runs/mine", "rounds, what is at work, the next command"),
        ("rstar status --json", "for scripts"),
    ),
    "report": (
        ("rstar report", "report.html of $RSTAR_RUN, else runs/default"),
        ("rstar report --run runs/mine", "of another run"),
        ("rstar report --json", "what was measured, on stdout too"),
    ),
    "show": (
        ("rstar show --round 1", "the first problem's search"),
        ("rstar show --round 1 --problem 7 --best-path", "the best solution of problem 7, with its code and output"),
        (
            "rstar show --round 1 --problem 7 --html tree.html",
            "a page, with a replay of the search",
        ),
    ),
    "doctor": (
        ("rstar doctor", "versions, devices, memory, sandbox and grader"),
        ("rstar doctor --json", "for scripts; the exit code is 5 where programs could do harm"),
        ("rstar --debug doctor", "with a traceback, should it fail itself"),
    ),
    "make": (
        ("rstar problems make --count 200 --seed 7 --levels 1-3 --output problems.jsonl", "exact answers"),
        ("rstar problems make --count 5 --output -", "on stdout"),
        ("rstar problems make --split test --count 500 --output held_out.jsonl", "disjoint from the training split"),
    ),
    "import": (
        ("rstar problems import train.csv --output problems.jsonl", "any field names that are known"),
        ("rstar problems import train.jsonl --run runs/mine", "as the training pool of a run"),
        ("rstar problems import gsm8k:train --run runs/mine --limit 1000", "a benchmark, from the hub"),
    ),
    "list": (("rstar problems list", "names, and where each comes from"),),
}


def add_examples(app: typer.Typer) -> None:
    """Put each command's examples below its help."""
    for command in app.registered_commands:
        name = command.name or str(getattr(command.callback, "__name__", ""))
        shown = "\n\n".join(f"[cyan]{line}[/cyan]  [dim]# {why}[/dim]" for line, why in EXAMPLES.get(name, ()))
        command.epilog = shown or None
