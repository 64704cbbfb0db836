"""Export a model:  python tools/export.py runs/csppelee_efm_sam/best.pt --format darknet"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("export"))
