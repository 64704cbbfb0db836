"""Check a dataset:  python tools/check_data.py data/shapes/shapes.yaml"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("check-data"))
