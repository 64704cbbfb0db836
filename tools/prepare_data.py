"""Create, download or convert a dataset:  python tools/prepare_data.py shapes --output data/shapes"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("prepare-data"))
