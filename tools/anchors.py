"""Evaluate and compute anchors:  python tools/anchors.py data/shapes/shapes.yaml --config configs/csppelee_efm.yaml"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("anchors"))
