"""What meta-learning does, in under three minutes: `make demo`.

First sine waves: a model that has learned *how to learn a wave* against one network for
all waves, and against a model of its own for each. Then images: five classes that were
never seen in training, from one or five images each. Every method gets the same support
rows and is judged on the same query rows of tasks that no choice was made on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import demo_images
import demo_sinusoids
import torch

NEXT = """\
Where to go next
  README.md                    your own groups of rows, grid search, when not to use it
  help(sklmeta.MAMLRegressor)  every parameter, with an example
  make demo DATA=omniglot      the same on handwritten characters of 50 alphabets"""


def main(argv=None):
    """Run the demo; return the path of the figure."""
    options = parse(argv)
    # The nets are small: on a busy machine threads cost more than they bring.
    torch.set_num_threads(1)
    start = perf_counter()
    options.folder.mkdir(parents=True, exist_ok=True)
    size = demo_sinusoids.QUICK if options.quick else demo_sinusoids.Size()
    found, figure = demo_sinusoids.run(size, options.folder)
    images = demo_images.load(options.data, options.quick)
    found |= demo_images.run(images)
    for problem, comparison in found.items():
        print(f"\n{problem}: {comparison}")
    print(
        "\nIntervals are over waves and over episodes: other classes would give others."
    )
    print(f"All of it took {perf_counter() - start:.0f} seconds.\n")
    print(f"Figure of one wave before and after adapting: {figure}\n\n{NEXT}")
    return figure


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        choices=["digits", "omniglot"],
        default="digits",
        help="images of the second part; omniglot is downloaded if it is not there",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("build/demo"),
        help="where the figure is saved (default: build/demo)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to see that it runs"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
