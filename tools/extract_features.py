"""Extract features:  python tools/extract_features.py runs/csppeleenet/best.pt photos --output photos.npz"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("extract-features"))
