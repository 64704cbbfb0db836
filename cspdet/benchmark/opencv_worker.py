"""The worker of OpenCV's rows. It runs in any interpreter that has OpenCV and numpy, and needs nothing of cspdet.

Lines of JSON on stdin are answered on stdout: {"do": "load", "files": [...], "input": "x.npy", "threads": N}, then
{"do": "forward", "passes": N} as often as wanted, and {"do": "memory"}.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import cv2
import numpy as np


def peak_mib() -> float:
    """The most memory that this process has had since its program started."""
    try:
        # not ru_maxrss, which a process inherits from the one that started it
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / (1024 if sys.platform == "darwin" else 1)


class OpenCvNetwork:
    """A network that OpenCV reads from Darknet's two files or from one of ONNX, with its input."""

    def __init__(self, files: list[str], input_path: str, threads: int):
        self.libraries_mib = peak_mib()
        cv2.setNumThreads(threads)
        read = "readNetFromDarknet" if files[0].endswith(".cfg") else "readNetFromONNX"  # OpenCV 5 lacks the first
        self.net = getattr(cv2.dnn, read)(*files)
        self.images = np.load(input_path)
        self.outputs = self.net.getUnconnectedOutLayersNames()
        self.forward()

    def forward(self) -> float:
        """Milliseconds of one pass."""
        start = time.perf_counter()
        self.net.setInput(self.images)
        self.net.forward(self.outputs)
        return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Answer until stdin ends."""
    network = None
    for line in sys.stdin:
        message = json.loads(line)
        response: dict[str, object]
        try:
            if message["do"] == "load":
                network = OpenCvNetwork(message["files"], message["input"], message["threads"])
                response = {"opencv": cv2.__version__}
            elif network is None:
                response = {"problems": ["nothing is loaded yet"]}
            elif message["do"] == "forward":
                response = {"ms": [network.forward() for _ in range(message["passes"])]}
            else:
                response = {"peak_mib": peak_mib(), "libraries_mib": network.libraries_mib}
        except (cv2.error, AttributeError) as error:
            said = " ".join(text.strip() for text in str(error).splitlines() if text.strip())
            response = {"problems": [f"OpenCV {cv2.__version__}: {said[:300]}"]}
        sys.stdout.write(json.dumps(response) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
