"""Upload a trained model to the Hugging Face Hub, with a model card.

  cspdet push runs/csppelee_efm_sam user/cells --license mit
  cspdet push runs/csppelee_efm_sam user/cells --private --precision fp16 --images
  cspdet push runs/csppelee_efm_sam user/cells --output cells     # write the files, without an upload
  cspdet fetch hf:user/cells                                      # on another machine

The repository gets model.safetensors, the model card README.md, config.yaml, metrics.json and curves.png. Images are
uploaded only with --images. Local paths in the config are reduced to file names. `hf auth login`, or the variable
HF_TOKEN, gives access. The extra `hub` has the client: pip install 'cspdet[hub]'.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cspdet.cli.arguments import add_import_argument, print_lines
from cspdet.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `push`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, or a checkpoint")
    parser.add_argument("repo", metavar="USER/NAME", help="the repository; it is created if it is missing")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--images", action="store_true", help="upload sample images of the split val too")
    parser.add_argument("--license", metavar="ID", help="license of the weights, such as mit or cc-by-4.0")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of the weights (default: fp32)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the files here instead of uploading them")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_import_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Write the files, upload them, and print the address of the repository."""
    if args.overrides:
        raise ConfigError(f"push: takes no overrides, found {args.overrides[0]!r}")
    from cspdet.workflows.push import push_to_hub

    address = push_to_hub(
        args.run, args.repo, private=args.private, images=args.images, license=args.license,
        precision=args.precision, output=args.output,
    )  # fmt: skip
    if args.json:
        print(json.dumps({"repo": args.repo, "address": address}))
    elif args.output is not None:
        print_lines([f"written: {address}; nothing was uploaded"])
    else:
        print_lines([f"{address}: uploaded; `cspdet fetch hf:{args.repo}` downloads it"])


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("push"))
