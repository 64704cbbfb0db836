"""Measure top-1 and top-5:  python tools/eval_classifier.py runs/csppeleenet/best.pt --data imagenet"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("eval-classifier"))
