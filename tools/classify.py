"""Classify images:  python tools/classify.py runs/csppeleenet/best.pt photos --top 5"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("classify"))
