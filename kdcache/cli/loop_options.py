"""Options of whoever trains a network, student or mentor."""

import click

from kdcache.cli.options import ViewChoice, stack
from kdcache.cli.view_options import (
    decoder_option,
    flip_test_option,
    recipe_option,
    recipe_parameters_option,
)

loop_options = stack(
    click.option("--epochs", type=int, help="Passes over the data.  [default: 240; poses: 210]"),
    click.option("--batch-size", type=int, help="Samples a step.  [default: 64; poses: 32]"),
    click.option("--optimizer", help="sgd or adam.  [default: sgd; poses: adam]"),
    click.option("--lr", type=float, help="Highest learning rate.  [default: 0.05; poses: 0.001]"),
    click.option(
        "--schedule",
        help="released (the papers': linear to 1/5, then three drops), cosine, amtml (two drops "
        "late in its second phase), steps-210 (HRNet's) or steps-140 (SimpleBaseline's).  "
        "[default: released; poses: steps-210]",
    ),
    click.option(
        "--momentum", type=float, help="Of SGD, or of Adam's first moment.  [default: 0.9]"
    ),
    click.option(
        "--weight-decay", type=float, help="On all parameters.  [default: 0.0005; poses: 0]"
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Of initialisation and epoch order."
    ),
    click.option(
        "--precision", default="fp32", show_default=True, help="fp32, bf16 or fp16 (autocast)."
    ),
    click.option(
        "--channels-last/--no-channels-last",
        default=True,
        show_default=True,
        help="Memory format of images and weights.",
    ),
    click.option(
        "--compile",
        is_flag=True,
        help="Student and loss by torch.compile (CUDA graphs on CUDA); needs a C++ compiler.",
    ),
    click.option(
        "--eval-every",
        type=int,
        default=1,
        show_default=True,
        help="Epochs between evaluations on the test split; the last is always evaluated.",
    ),
    click.option(
        "--checkpoint-every",
        type=int,
        metavar="STEPS",
        help="Steps between checkpoints within an epoch, for a run that may be killed.  "
        "[default: only after each epoch]",
    ),
    recipe_option,
    recipe_parameters_option,
    decoder_option,
    flip_test_option,
    click.option("--view-seed", type=int, help="Of the views.  [default: the store's, else 0]"),
    click.option(
        "--views",
        type=ViewChoice(),
        help="Views to cycle through: the first N, or a list.  "
        "[default: the store's, else endless]",
    ),
    click.option(
        "--resume", is_flag=True, help="Insist on going on with a run that is already there."
    ),
)
