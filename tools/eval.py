"""Measure COCO AP:  python tools/eval.py runs/csppelee_efm_sam/best.pt"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("eval"))
