"""Convert Darknet files:  python tools/import_darknet.py yolov4-tiny.cfg yolov4-tiny.weights --output x.pt"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("import-darknet"))
