"""
Which temporal layers to put into an image model: kinds of them, trained on the same clips from the same image model.

    python examples/shapes/recipe.py --work_dir runs/shapes
    python examples/benchmarks/ablation.py examples/shapes/text_to_video.yaml --model runs/shapes/image \
        --clips runs/shapes/text_to_video_clips --heldout runs/shapes/text_to_video_heldout

The YAML file holds settings of `train_video_unet.py`: batch, learning rate, timesteps, length. What stands behind `--`
overrules them, such as `-- --max_train_steps 400 --learning_rate 5e-4`. Every variant is trained twice: for as many
updates as the others, and for as many as take the processor time of the reference's. Costs are measured first, updates
of all variants in turn; `--only plan` stops behind them and says how long the runs will take.

Stopped, the same command goes on; runs that are done are not done again, nor is what was measured of them: a first
command may draw no videos (`--num-videos 0`), and a second one those of some variants. Numbers, table and plot go to
`--output-dir`.
"""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from ablation_measures import WORD_TIMESTEP, measure
from ablation_report import BUDGETS, plot_losses, render_report
from ablation_runs import Base, check_folder, equal_time_updates, load_base, measure_costs, read_settings, train
from ablation_variants import VARIANTS, YARDSTICK
from benchmark_tools import describe_run, write_json

from diffusers_video.embedded import SHAPES_GUIDANCE, SHAPES_SUBSET


logger = logging.getLogger(__name__)

TIMED_UPDATES = 5  # of each variant, in turn


def check_names(variants: str, reference: str) -> list[str]:
    """
    Read the names of variants.

    Args:
        variants (`str`): Names with commas between them.
        reference (`str`): The one that others are compared with.

    Returns:
        `list[str]`: Each name once.

    Raises:
        typer.BadParameter: If a name is unknown, or the reference is none of them or does not train.
    """
    names = list(dict.fromkeys(variants.split(",")))
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise typer.BadParameter(f"`--variants` must be out of {','.join(VARIANTS)}, but names {unknown[0]!r}.")
    if reference not in names or reference == YARDSTICK:
        raise typer.BadParameter(
            f"`--reference` must be one of `--variants` that trains, but is {reference!r} out of {','.join(names)}."
        )
    return names


def plan_runs(
    base: Base, costs: dict[str, dict[str, Any]], reference: str, seeds: int
) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """
    Tell how long each variant is trained.

    Args:
        base ([`Base`]): Image model, clips and settings.
        costs (`dict[str, dict[str, Any]]`): From [`measure_costs`]; its variants are planned.
        reference (`str`): Its time is what all have, where time is equal.
        seeds (`int`): Runs of each variant.

    Returns:
        `dict`: For each of `BUDGETS` and each variant pairs of seed and updates. What does not train has one run.
    """
    steps, first = base.config.max_train_steps, base.config.seed
    plan: dict[str, dict[str, list[tuple[int, int]]]] = {budget: {} for budget in BUDGETS}
    for variant in costs:
        lengths = {"updates": steps, "time": equal_time_updates(costs, variant, reference, steps)}
        for budget, length in lengths.items():
            plan[budget][variant] = [
                (first + number, length) for number in range(1 if variant == YARDSTICK else seeds)
            ]
    return plan


def describe_plan(
    plan: dict[str, dict[str, list[tuple[int, int]]]], base: Base, costs: dict[str, dict[str, Any]], num_videos: int
) -> list[str]:
    """
    Say what will be trained, and how long it takes by the measured costs.

    Args:
        plan (`dict`): From [`plan_runs`].
        base ([`Base`]): Image model, clips and settings.
        costs (`dict[str, dict[str, Any]]`): From [`measure_costs`].
        num_videos (`int`): Videos drawn of each run.

    Returns:
        `list[str]`: A line for each run, and one with the sum.
    """
    config, lines, total = base.config, [], 0.0
    calls = config.num_heldout_clips * (config.num_heldout_timesteps + len(SHAPES_SUBSET["motions"]))
    calls += num_videos * 2 * config.num_validation_inference_steps  # with and without guidance
    for variant, seed, updates in _each_run(plan):
        cost = costs[variant]
        training, measuring = updates * cost.get("seconds", 0), calls * cost["call_seconds"]
        total += training + measuring
        lines.append(
            f"{variant}, seed {seed}: {updates} updates, about {training:.0f} s, and {measuring:.0f} s to measure"
        )
    return [*lines, f"About {total / 60:.0f} minutes of processor time in all"]


def _each_run(plan: dict[str, dict[str, list[tuple[int, int]]]]) -> list[tuple[str, int, int]]:
    return list(
        dict.fromkeys((name, *run) for variants in plan.values() for name, runs in variants.items() for run in runs)
    )


def describe_settings(base: Base, seeds: int, num_videos: int) -> dict[str, Any]:
    """Return the settings that the report names."""
    names = ("train_batch_size", "learning_rate", "lr_scheduler", "max_train_steps", "timestep_bias_begin")
    names += ("timestep_bias_end", "timestep_bias_multiplier", "snr_gamma", "caption_dropout", "seed")
    return {
        **{name: getattr(base.config, name) for name in names},
        "clips": min(base.config.num_heldout_clips, len(base.heldout)),
        "word_clips": base.config.num_heldout_clips,
        "timesteps": base.config.num_heldout_timesteps,
        "steps": base.config.num_validation_inference_steps,
        "guidance": SHAPES_GUIDANCE,
        "motions": len(SHAPES_SUBSET["motions"]),
        "word_timestep": WORD_TIMESTEP,
        "videos": num_videos,
        "seeds": seeds,
    }


def write_report(numbers: dict[str, Any], folder: Path, has_plot: bool) -> list[Path]:
    """
    Write numbers, table and plot.

    Args:
        numbers (`dict[str, Any]`): What was measured.
        folder (`Path`): Where they go.
        has_plot (`bool`): Whether to plot.

    Returns:
        `list[Path]`: The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"ablation.{suffix}" for suffix in ("json", "md", *(["svg"] if has_plot else []))]
    write_json(paths[0], numbers)
    paths[1].write_text(render_report(numbers, paths[2].name if has_plot else None), encoding="utf-8")
    if has_plot:
        plot_losses(numbers, paths[2])
    return paths


def main(
    settings: Annotated[Path, typer.Argument(exists=True, help="YAML file of `train_video_unet.py`.")],
    flags: Annotated[list[str] | None, typer.Argument(help="Flags of it, behind `--`.")] = None,
    model: Annotated[str, typer.Option(help="Image model, or a video pipeline made of it.")] = "runs/shapes/image",
    clips: Annotated[str, typer.Option(help="Clips to train on.")] = "runs/shapes/text_to_video_clips",
    heldout: Annotated[str | None, typer.Option(help="Clips to measure on; `--clips shapes` has its own.")] = None,
    work_dir: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/ablation"),
    output_dir: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("docs"),
    variants: Annotated[str, typer.Option(help="Which ones, with commas; all by default.")] = ",".join(VARIANTS),
    reference: Annotated[str, typer.Option(help="Whose time all have, and whose loss is compared with.")] = "light",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with seeds one after the other.")] = 1,
    num_videos: Annotated[int, typer.Option(min=0, help="Videos that are drawn and checked for each run.")] = 64,
    only: Annotated[
        Literal["plan", "table"] | None, typer.Option(help="`plan`: costs and duration alone; `table`: no plot.")
    ] = None,
) -> None:
    """Compare kinds of temporal layers."""
    names = check_names(variants, reference)
    if only is None and find_spec("matplotlib") is None:
        raise typer.BadParameter(
            'The plot needs matplotlib: `pip install -c constraints.txt -e ".[docs]"`. `--only table` leaves it out.'
        )
    shared = {"pretrained_model_name_or_path": model, "train_data_dir": clips}
    shared |= {} if heldout is None else {"heldout_data_dir": heldout}
    base = load_base(read_settings([str(settings), *(flags or [])], **shared, output_dir=str(work_dir)))
    check_folder(base)
    costs = measure_costs(base, names, reference, TIMED_UPDATES)
    plan = plan_runs(base, costs, reference, seeds)
    for line in describe_plan(plan, base, costs, num_videos):
        logger.info(line)
    if only == "plan":
        return
    done = {}
    for variant, seed, updates in _each_run(plan):
        trained, folder = train(base, variant, seed, updates)
        measured = measure(base, trained, folder, num_videos)
        done[variant, seed, updates] = {"seed": seed, "updates": updates, **measured}
    numbers = {
        **describe_run(),
        "settings": describe_settings(base, seeds, num_videos),
        "reference": reference,
        "costs": costs,
        "runs": {
            budget: {name: [done[name, *run] for run in runs] for name, runs in of_budget.items()}
            for budget, of_budget in plan.items()
        },
    }
    for path in write_report(numbers, output_dir, has_plot=only is None):
        logger.info(f"Wrote {path}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    typer.run(main)
