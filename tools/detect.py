"""Detect objects:  python tools/detect.py runs/csppelee_efm_sam/best.pt street.jpg"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("detect"))
